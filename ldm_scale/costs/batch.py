"""How many samples an auditor takes at a time, chosen by what fills its device and by what its memory holds."""

from dataclasses import dataclass

from ldm_scale.config.audit import USUAL_BATCH
from ldm_scale.costs.memory import MemoryEstimate
from ldm_scale.report.labels import scaled

# The fewest that are chosen: a CPU is as fast with one sample at a time, and its rows are soon there.
LEAST = {"cpu": 1, "cuda": USUAL_BATCH}
MOST = 512
# A batch takes a second or more at this speed, in operations a second: the driver's part in it is a hundredth of one.
SPEED = {"cpu": 80e9, "cuda": 40e12}
# Of an auditor's memory: the rest is for libraries, and for what lies free between tensors.
SHARE = 0.8


@dataclass(frozen=True)
class BatchChoice:
    """So many samples at a time, and why."""

    size: int
    why: str

    def __str__(self) -> str:
        return f"{self.size:,} samples at a time: {self.why}"


def fitting_batch(estimate: MemoryEstimate, batch: int, held: float) -> int | None:
    """The batch, halved until its memory is no more than the bytes held; None if not even one sample fits."""
    while batch and estimate.of(batch).peak > held:
        batch //= 2
    return batch or None


def choose_batch(estimate: MemoryEstimate, held: int, samples: int, auditors: int) -> BatchChoice:
    """The fewest samples, doubled until they take a second and fill a GPU, or halved until they fit.

    Args:
        estimate: of the memory of batches.
        held: bytes of memory that an auditor has.
        samples: that are audited; each auditor shall have a batch of them.
        auditors: that share them.
    """
    size = LEAST[estimate.device]
    while not _is_enough(estimate, size) and 2 * size <= min(MOST, samples // auditors):
        size *= 2
    fitting = fitting_batch(estimate, size, SHARE * held) or 1
    reason = "the most that fit" if fitting < size else f"enough for {estimate.device}"
    return BatchChoice(fitting, f"{reason}; about {scaled(estimate.of(fitting).peak, 'B')} of {scaled(held, 'B')}")


def _is_enough(estimate: MemoryEstimate, batch: int) -> bool:
    fills = estimate.device == "cpu" or estimate.fills(batch)
    return fills and batch * estimate.flops >= SPEED[estimate.device]
