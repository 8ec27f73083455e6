"""Auditors that measure nothing, for benchmarks of the graph around them; they load no library of models."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ldm_scale.auditor import STAGES, AuditedBatch, Auditor, Calibration, Cost
from ldm_scale.device.transfer import Arriving, Transfer
from ldm_scale.engine.actor import Actor, AuditorActor
from ldm_scale.files.rundir import RunRecord
from ldm_scale.schema import spectrum_column

# The column of the second at which an auditor was done with a sample.
DONE = "done"


class SimulatedAuditor:
    """Takes every image in, and waits for so long a batch instead of measuring anything."""

    def __init__(self, record: RunRecord, seconds: float = 0) -> None:
        self._record, self._seconds = record, seconds
        self._transfer = Transfer(torch.device("cpu"))

    def refusal(self, caption: str | None, label: int | None) -> str | None:
        """None: every sample can be taken."""
        return None

    def load(self, pixels: UInt8[np.ndarray, "n 3 H W"]) -> Arriving:
        """As the auditor does."""
        return self._transfer.begin(pixels)

    def audit(
        self,
        pixels: UInt8[Tensor, "n 3 H W"],
        sample_ids: Sequence[str],
        captions: Sequence[Sequence[str]],
        labels: Sequence[int | None],
    ) -> AuditedBatch:
        """What could have been measured of n samples."""
        record, samples = self._record, len(pixels)
        dimensions, bins = record.dimensions, record.config.masks.bins
        spectra = {name: np.ones((samples, len(steps), bins), np.float32) for name, steps in record.timesteps.items()}
        return AuditedBatch(
            influence=np.zeros((samples, dimensions), np.float32),
            distortion=self.distortion(pixels),
            stability=np.full((samples, 2), np.nan, np.float32),
            leakage=np.zeros((samples, dimensions), np.float32),
            latent=np.zeros((samples, 2), np.float32),
            spectra={**spectra, **{spectrum_column(name, "random"): values for name, values in spectra.items()}},
            faults=("",) * samples,
            cost=Cost(dict.fromkeys(STAGES, 0.0), 0, 0),
        )

    def distortion(self, pixels: UInt8[Tensor, "n 3 H W"]) -> Float[np.ndarray, " n"]:
        """What the rows say of it, after all that takes time."""
        time.sleep(self._seconds)
        return np.full(len(pixels), np.nan, np.float32)


class SimulatedAuditorActor(AuditorActor):
    """An actor with such an auditor, whose rows also say when they were done."""

    make_auditor: Callable[[RunRecord], Any]

    def __init__(self, record: RunRecord, device: str, image_size: int, calibration: Calibration) -> None:
        Actor.__init__(self, cast(Auditor, self.make_auditor(record)), image_size)

    def _compute(self, good: pa.Table, arriving: Arriving) -> list[pa.Table]:
        rows, rejects = super()._compute(good, arriving)
        return [rows.append_column(DONE, pa.array(np.full(len(rows), time.time()))), rejects]


def waiting(seconds: float) -> type[AuditorActor]:
    """An actor whose auditor waits for so long a batch."""
    make_auditor = staticmethod(partial(SimulatedAuditor, seconds=seconds))
    return type("WaitingAuditorActor", (SimulatedAuditorActor,), {"make_auditor": make_auditor})


class IdleAuditor(SimulatedAuditor):
    """Measures nothing of its images but the sum of their pixels, which it gives as their distortion."""

    def distortion(self, pixels: UInt8[Tensor, "n 3 H W"]) -> Float[np.ndarray, " n"]:
        """The sums."""
        return pixels.sum(dim=(1, 2, 3)).float().numpy()


class IdleAuditorActor(SimulatedAuditorActor):
    """An actor with such an auditor."""

    make_auditor = IdleAuditor
