"""How long work on a device takes, at its fastest."""

import time
from collections.abc import Callable

import torch

from ldm_scale.errors import UsageError


def open_device(device: str, threads: int | None = None) -> torch.device:
    """The device, if it is a CPU with so many threads of torch; raises UsageError for cuda if there is no GPU."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda: torch sees no GPU here; take --device cpu")
    if device == "cpu" and threads is not None:
        torch.set_num_threads(threads)
    return torch.device(device)


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
