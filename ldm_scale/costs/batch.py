"""How many samples an auditor takes at a time, chosen by what fills its device and by what its memory holds."""

from dataclasses import dataclass

from ldm_scale.config.audit import USUAL_BATCH
from ldm_scale.costs.memory import MemoryEstimate
from ldm_scale.report.labels import scaled

# The most that are chosen: on the CPU, larger batches are no faster.
MOST = {"cpu": USUAL_BATCH, "cuda": 512}
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
    """The usual batch, doubled until it fills the device, or halved until it fits.

    Args:
        estimate: of the memory of batches.
        held: bytes of memory that an auditor has.
        samples: that are audited; each auditor shall have a batch of them.
        auditors: that share them.
    """
    size = USUAL_BATCH
    while not estimate.fills(size) and 2 * size <= min(MOST[estimate.device], samples // auditors):
        size *= 2
    fitting = fitting_batch(estimate, size, SHARE * held) or 1
    reason = "the most that fit" if fitting < size else f"enough for {estimate.device}"
    return BatchChoice(fitting, f"{reason}; about {scaled(estimate.of(fitting).peak, 'B')} of {scaled(held, 'B')}")
