#!/usr/bin/env python
"""Audit an unconditional latent diffusion model of CIFAR-10: the paper's first row.

25,000 of the 50,000 training images are members and 25,000 held-out, 32 px as they are; the target is a U-Net on the
latents of a KL autoencoder with two downsamplings, 256 dimensions. Distortion is measured on about 100 images,
exactly, and estimated on the others from their influences.
"""

import sys

from ldm_scale.cli import run_job

# The paper's timesteps for models trained from scratch.
TIMESTEPS = "0:300:10"
RECIPE = {
    "attacks": {name: {"timesteps": TIMESTEPS} for name in ("sima", "loss", "pia", "secmi")},
    "geometry": {"influence": "pooled", "probes": 8, "distortion": "exact", "distortion_share": 0.002},
    "masks": {"ranking": "calibration"},
}

if __name__ == "__main__":
    sys.exit(run_job(__doc__, RECIPE, dataset="cifar10"))
