"""An auditor of the tiny target, and samples for it."""

from pathlib import Path

import numpy as np

from ldm_scale.auditor import (
    Auditor,
    Calibration,
)
from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.base import build
from ldm_scale.config.data import ImageConfig
from ldm_scale.data.images import preprocess
from ldm_scale.geometry.pullback import TracedDecoder
from ldm_scale.targets.load import load_target
from tests.conftest import make_image

COUNT = 33

KEYS = [f"shard/{n:03d}" for n in range(COUNT)]

PIXELS = np.stack([preprocess(make_image(n), ImageConfig(), 16) for n in range(COUNT)])

DECODERS: dict[tuple[Path, str], TracedDecoder] = {}


def make_auditor(target: Path, calibration: Calibration | None = None, **changes: object) -> Auditor:
    values: dict[str, object] = {
        "out": "unused",
        "shards": "unused",
        "target": str(target),
        "attacks": {"sima": {"timesteps": [0, 50]}},
        "geometry": {"probes": 4, "distortion": "off"},
        "masks": {"bins": 8},
        "analysis": {"drop": 0.5},
    }
    config = build(AuditConfig, values | changes)
    auditor = Auditor(load_target(str(target), "cpu"), config, calibration)
    # What one test has traced, another need not trace again.
    auditor._decoder = DECODERS.setdefault((target, config.geometry.precision), auditor._decoder)
    return auditor
