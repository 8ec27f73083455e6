"""An auditor whose process dies; loaded by workers, so that it imports no more than they need."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from ldm_scale.device.transfer import Arriving
from ldm_scale.engine.actor import AuditorActor
from ldm_scale.files.rundir import RunRecord

# How many die: those that start first.
MORTAL = 2


def deaths(out: str) -> Path:
    """The folder beside a run with a file for each start and each death, and `now` if auditors may die."""
    return Path(out).with_name("deaths")


class MortalAuditorActor(AuditorActor):
    """Computes one batch, and is killed in the next one as soon as it may."""

    def __init__(self, record: RunRecord, *arguments: Any) -> None:
        super().__init__(record, *arguments)
        self._folder = deaths(record.config.out)
        self._folder.mkdir(exist_ok=True)
        (self._folder / f"started-{os.getpid()}").touch()
        self._mortal = len([*self._folder.glob("started-*")]) <= MORTAL
        self._batches = 0

    def _compute(self, good: pa.Table, arriving: Arriving) -> list[pa.Table]:
        self._batches += 1
        if self._mortal and self._batches == 2:
            while not (self._folder / "now").exists():
                time.sleep(0.1)
            (self._folder / f"killed-{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._compute(good, arriving)
