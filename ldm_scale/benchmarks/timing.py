"""How long work on a device takes, at its fastest."""

import time
from collections.abc import Callable, Sequence

import torch

from ldm_scale.errors import UsageError


def check_device(device: str) -> None:
    """Raise UsageError if cuda is asked for and there is no GPU."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda: torch sees no GPU here; take --device cpu")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """The seconds that one run of the work takes, the device's own part included."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def least_seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The least of several runs, after one that warms up."""
    work()
    return min(seconds(work, device) for _ in range(repeats))


def best_batch(
    prepare: Callable[[int], Callable[[], object]], sizes: Sequence[int], device: torch.device, repeats: int
) -> tuple[float, int]:
    """The least seconds a sample over batches of these sizes, and the size; prepare(n) gives the work on n samples."""
    return min((least_seconds(prepare(size), device, repeats) / size, size) for size in sizes)
