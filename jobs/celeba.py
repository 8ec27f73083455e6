#!/usr/bin/env python
"""Audit an unconditional latent diffusion model of CelebA: the paper's second row.

Centre crop of 140 px, then 64 px (bilinear); the target is a U-Net on the latents of a KL autoencoder with two
downsamplings, 1,024 dimensions. Influences are pooled from four probes a sample. Distortion, which takes a decoder
product a dimension, is measured on about 100 images and estimated on the others from their influences.
"""

import sys

from ldm_scale.cli import run_job

# The paper's timesteps for models trained from scratch.
TIMESTEPS = "0:300:10"
RECIPE = {
    "attacks": {name: {"timesteps": TIMESTEPS} for name in ("sima", "loss", "pia", "secmi")},
    "images": {"crop": 140, "filter": "bilinear"},
    "geometry": {"influence": "pooled", "probes": 4, "distortion": "exact", "distortion_share": 0.0006},
    "masks": {"ranking": "calibration"},
}

if __name__ == "__main__":
    sys.exit(run_job(__doc__, RECIPE, dataset="celeba"))
