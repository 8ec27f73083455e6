"""An auditor that sees whether two batches of it are on their way; loaded by workers, with no more than they need."""

import threading
import time

import numpy as np
from torch import Tensor

from ldm_scale.benchmarks.simulated import SimulatedAuditor, SimulatedAuditorActor
from ldm_scale.device.transfer import Arriving
from ldm_scale.files.rundir import RunRecord


class MeetingAuditor(SimulatedAuditor):
    """Its first batch computes until the next one is on its way; says so by distortions of 1, or 0 if none came."""

    def __init__(self, record: RunRecord) -> None:
        super().__init__(record)
        self.loads = self.computing = 0
        self.second = threading.Event()

    def load(self, pixels: np.ndarray) -> Arriving:
        arriving = super().load(pixels)
        self.loads += 1
        if self.loads > 1:
            self.second.set()
        return arriving

    def distortion(self, pixels: Tensor) -> np.ndarray:
        self.computing += 1
        met = self.second.wait(60) and self.computing == 1
        time.sleep(0.05)
        met = met and self.computing == 1
        self.computing -= 1
        return np.full(len(pixels), met, np.float32)


class MeetingAuditorActor(SimulatedAuditorActor):
    make_auditor = MeetingAuditor
