"""An audit in a process of its own, to be killed: `python -m tests.engine.driver LOG AUDIT-FLAGS...`.

It appends the id of each sample to LOG as its computation begins, waits before that while there is a LOG.hold, and jobs
that died are found dead in five seconds.
"""

import sys
import time
from pathlib import Path

import pyarrow as pa

from ldm_scale.cli import main
from ldm_scale.device.transfer import Arriving
from ldm_scale.engine import audit
from ldm_scale.files import ownership

LOG = Path(sys.argv[1])
HOLD = Path(f"{LOG}.hold")


class CountingActor(audit.AuditorActor):
    """Ray takes classes of the main module along by value, with what this one's functions name."""

    def _compute(self, good: pa.Table, arriving: Arriving) -> list[pa.Table]:
        while HOLD.exists():
            time.sleep(0.1)
        with LOG.open("a") as log:
            log.writelines(f"{key}\n" for key in good["sample_id"].to_pylist())
        return super()._compute(good, arriving)


if __name__ == "__main__":
    ownership.BEAT, ownership.LEASE = 0.2, 5.0
    audit.AuditorActor = CountingActor  # type: ignore[misc]
    sys.exit(main(["audit", *sys.argv[2:]]))
