#!/usr/bin/env python
"""Audit the shipped demo target (a small model of emoji) on the shipped demo shards; a few minutes on two cores."""

import sys

from ldm_scale.cli import run_job

RECIPE = {
    "out": "runs/demo",
    # What the target was trained on.
    "latent": "sample",
    "attacks": {"sima": {"timesteps": "0:300:30"}, "pia": {"timesteps": "0:300:30"}},
    # Exact distortion takes a product a dimension; a fifth of the samples shows the quartiles well enough.
    "geometry": {"influence": "hutchinson", "probes": 16, "distortion_share": 0.2},
}

if __name__ == "__main__":
    sys.exit(run_job(__doc__, RECIPE))
