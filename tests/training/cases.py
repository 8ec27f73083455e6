"""What the tests of the training room share: tiny models, and a batch of smooth pictures."""

from dataclasses import replace

import numpy as np
import torch

from ldm_scale.config.data import ImageConfig
from ldm_scale.data.images import preprocess
from ldm_scale.training.conditions import Batch
from ldm_scale.training.models import Models, make_models
from tests.conftest import make_image, tiny_recipe

CPU = torch.device("cpu")
CLASSES = 2


def batch(count: int = 4, size: int = 16) -> Batch:
    """Smooth pictures (noise cannot be learned), of alternating classes, with captions."""
    pixels = np.stack([preprocess(make_image(seed, size), ImageConfig(), size) for seed in range(count)])
    images = torch.from_numpy(pixels).float() / 127.5 - 1
    return Batch(images, [number % CLASSES for number in range(count)], [f"cat {n}" for n in range(count)])


def as_latents(made: Models, some: Batch) -> Batch:
    """The batch with the means of its images' latents, scaled, in the images' place."""
    with torch.no_grad():
        z = made.autoencoder.encode(some.inputs).latent_dist.mean * made.autoencoder.config.scaling_factor
    return replace(some, inputs=z)


def models(seed: int = 0, **changes: object) -> Models:
    """Tiny models with random weights and a scaling factor of their own."""
    torch.manual_seed(seed)
    made = make_models(tiny_recipe(**changes), CLASSES, CPU)
    if "vqvae" not in made.copied and "vae" not in made.copied:
        made.autoencoder.register_to_config(scaling_factor=0.7)
    return made
