#!/usr/bin/env python
"""Audit a class-conditional latent diffusion model of ImageNet-1K: the paper's third row.

100,000 images; shorter side to 256 px (bicubic), centre crop; each image's own class is the condition. The target is a
class-conditional U-Net or transformer on the latents of a frozen autoencoder (sd-vae-ft-mse: 4,096 dimensions).
Influences are pooled from two probes a sample. Distortion, which takes about 100 decoder products, is measured on about
100 images and estimated on the others from their influences.
"""

import sys

from ldm_scale.cli import run_job

# The paper's timesteps for models trained from scratch.
TIMESTEPS = "0:300:10"
RECIPE = {
    "attacks": {name: {"timesteps": TIMESTEPS} for name in ("sima", "loss", "pia", "secmi")},
    "images": {"filter": "bicubic"},
    "geometry": {"influence": "pooled", "probes": 2, "distortion": "truncated", "distortion_share": 0.001},
    "masks": {"ranking": "calibration"},
}

if __name__ == "__main__":
    sys.exit(run_job(__doc__, RECIPE, dataset="imagenet"))
