#!/usr/bin/env python
"""Audit a Stable Diffusion model that was fine-tuned on the Pokemon images with BLIP captions: the paper's fourth row.

416 members, 417 held-out; shorter side to the model's own 512 px (bilinear), centre crop; each
image's first caption is the condition. 16,384 dimensions. Influences are pooled from two probes a sample. Distortion,
which takes about 100 decoder products, is measured on about 15 images and estimated on the others from their
influences.
"""

import sys

from ldm_scale.cli import run_job

# The paper's timesteps for Stable Diffusion.
TIMESTEPS = "0:200:10"
RECIPE = {
    "attacks": {name: {"timesteps": TIMESTEPS} for name in ("sima", "loss", "pia", "secmi")},
    "images": {"filter": "bilinear"},
    "geometry": {"influence": "pooled", "probes": 2, "distortion": "truncated", "distortion_share": 0.018},
    "masks": {"ranking": "calibration"},
}

if __name__ == "__main__":
    sys.exit(run_job(__doc__, RECIPE, dataset="pokemon"))
