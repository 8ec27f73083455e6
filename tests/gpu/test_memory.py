"""Memory of a device: rows are the same when it runs short, and no audit takes more than the dry run says."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ldm_scale.attacks.registry import make_attack
from ldm_scale.auditor import Auditor, measured_decoder
from ldm_scale.benchmarks.device import TARGETS
from ldm_scale.config.audit import AuditConfig
from ldm_scale.costs.counts import denoiser_evaluations
from ldm_scale.costs.flops import _LiveBytes, measure_passes
from ldm_scale.costs.memory import Memory, MemoryEstimate
from tests.gpu import cases

# Of PyTorch's libraries on cuda, beside the audit's own: cuBLAS takes up to 32 MiB a handle and cuDNN what it likes.
LIBRARIES = 256 << 20


class _Cap(TorchDispatchMode):
    """A CPU that runs out of memory at a tensor of more than so many bytes; counts how often, and keeps the largest."""

    def __init__(self, limit: float = math.inf) -> None:
        super().__init__()
        self.limit, self.refusals, self.largest = limit, 0, 0

    def __torch_dispatch__(
        self, op: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = op(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and not isinstance(leaf, FakeTensor)]
        largest = max((tensor.nbytes for tensor in made), default=0)
        self.largest = max(self.largest, largest)
        if largest > self.limit:
            self.refusals += 1
            raise torch.OutOfMemoryError("CPU out of memory.")
        return result


def needed(device: torch.device, work: Callable[[], object]) -> int:
    """Bytes that work takes beyond those in use, or on the CPU its largest tensor."""
    if device.type == "cpu":
        with _Cap() as cap:
            work()
        return cap.largest
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() - before


@contextmanager
def short_of_memory(device: torch.device, limit: int) -> Iterator[Callable[[], int]]:
    """A device with `limit` bytes beyond those in use, or on the CPU in one tensor; yields how often it ran out."""
    if device.type == "cpu":
        with _Cap(limit) as cap:
            yield lambda: cap.refusals
        return
    torch.cuda.empty_cache()
    before = torch.cuda.memory_stats()["num_ooms"]
    whole = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + limit) / whole)
    try:
        yield lambda: torch.cuda.memory_stats()["num_ooms"] - before
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def busy(stage: str, device: torch.device) -> AuditConfig:
    """An audit that takes much memory in one stage: some hundred MB and more on cuda, less on a CPU."""
    on_cuda = device.type == "cuda"
    steps, probes = ("0:1000", 2) if stage == "attacks" else ("0:1", 500 if on_cuda else 12)
    if stage == "attacks" and not on_cuda:
        steps = "0:20"
    return cases.make_config(
        attacks={"sima": {"timesteps": steps}},
        geometry={"probes": probes, "distortion": "off", "memory": "60GiB"},
        compute={"evaluations": 100_000},
    )


BUDGETS: dict[str, Callable[[Auditor], int]] = {
    "attacks": lambda auditor: auditor._rows.limit,
    "geometry": lambda auditor: auditor._decoder.budget.limit,
}


@pytest.mark.parametrize("stage", BUDGETS)
def test_a_device_that_runs_out_of_memory_halves_and_gives_the_same_rows(device: torch.device, stage: str) -> None:
    """With a third of what the audit needs for all its rows at once."""
    config, target = busy(stage, device), TARGETS["demo"](str(device))
    expected = []
    need = needed(device, lambda: expected.append(cases.audit(Auditor(target, config), target)))
    auditor = Auditor(target, config)
    before = BUDGETS[stage](auditor)
    with short_of_memory(device, need // 3) as refusals:
        found = cases.audit(auditor, target)
        assert refusals() > 0
    assert BUDGETS[stage](auditor) < before
    cases.assert_same_rows(found, *expected)


def estimate(name: str, config: AuditConfig, device: torch.device) -> Memory:
    """What the dry run says of a target's shapes."""
    outline = TARGETS[name]("meta")
    decode = measured_decoder(outline, config.geometry)
    passes = measure_passes(outline, partial(outline.condition, [None], [None]), decode)
    attacks = [make_attack(attack, options) for attack, options in config.attacks.items()]
    evaluations = denoiser_evaluations(attacks, outline.alphas_cumprod, outline.latent_shape)
    return MemoryEstimate(config, outline, passes, evaluations, device.type).of(cases.COUNT)


def peak_bytes(name: str, config: AuditConfig, device: torch.device) -> int:
    """The most bytes that tensors take while batches are audited, weights included."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        target = TARGETS[name](str(device))
        cases.audit(Auditor(target, config), target)
        return torch.cuda.max_memory_allocated() - before
    target = TARGETS[name](str(device))
    auditor = Auditor(target, config)
    cases.audit(auditor, target)  # which traces the products
    with _LiveBytes() as live:
        cases.audit(auditor, target)
    return live.peak + sum(weight.nbytes for weight in target.weights())


@pytest.mark.parametrize(
    ("place", "name"),
    [
        pytest.param("cpu", "demo", marks=pytest.mark.slow),
        *(pytest.param("cuda", name, marks=pytest.mark.gpu) for name in ("demo", "sd")),
    ],
)
def test_an_audit_takes_no_more_memory_than_the_dry_run_says(place: str, name: str) -> None:
    device = torch.device(place)
    config = cases.make_config(
        conditioning="none",
        attacks={"sima": {"timesteps": "0:100:10"}},
        geometry={"probes": 4, "distortion": "off", "memory": "256MiB"},
        compute={"device": device.type, "batch_size": cases.COUNT},
    )
    said, taken = estimate(name, config, device), peak_bytes(name, config, device)
    # Nor is what is said beyond all reason.
    assert said.peak / 20 < taken <= said.peak + LIBRARIES * (device.type == "cuda")
