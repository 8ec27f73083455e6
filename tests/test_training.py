"""The from-scratch model's losses, against their definitions, and its layout on disk."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from ldm_scale.config import ImageConfig
from ldm_scale.data.images import preprocess
from ldm_scale.training import (
    AutoencoderLoss,
    DenoiserLoss,
    build_autoencoder,
    build_denoiser,
    build_schedule,
    optimise,
    set_scaling_factor,
)
from tests.conftest import make_image, tiny_recipe


def images(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_autoencoder_loss_is_l1_plus_weighted_kl() -> None:
    torch.manual_seed(0)
    autoencoder, x = build_autoencoder(tiny_recipe()), images()
    torch.manual_seed(1)
    found = AutoencoderLoss(autoencoder, kl_weight=0.5)(x)
    torch.manual_seed(1)
    posterior = autoencoder.encode(x).latent_dist
    z = posterior.sample()
    mean, variance = posterior.mean, posterior.var
    kl = 0.5 * (mean**2 + variance - 1 - variance.log())
    expected = (autoencoder.decode(z).sample - x).abs().mean() + 0.5 * kl.mean()
    torch.testing.assert_close(found, expected)


def test_denoiser_loss_is_the_error_of_the_predicted_noise_on_the_mode() -> None:
    torch.manual_seed(0)
    config, x = tiny_recipe(), images()
    autoencoder, denoiser, schedule = build_autoencoder(config), build_denoiser(config), build_schedule()
    autoencoder.register_to_config(scaling_factor=0.7)
    torch.manual_seed(1)
    found = DenoiserLoss(denoiser, autoencoder, schedule)(x)
    torch.manual_seed(1)
    z = autoencoder.encode(x).latent_dist.mean * 0.7
    noise = torch.randn_like(z)
    steps = torch.randint(1000, (4,))
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)[steps].reshape(4, 1, 1, 1)
    predicted = denoiser(abar.sqrt() * z + (1 - abar).sqrt() * noise, steps).sample
    torch.testing.assert_close(found, ((predicted - noise) ** 2).mean())


def test_only_the_denoiser_learns_in_its_stage() -> None:
    config = tiny_recipe()
    autoencoder, denoiser = build_autoencoder(config), build_denoiser(config)
    loss = DenoiserLoss(denoiser, autoencoder, build_schedule())
    before = [parameter.clone() for parameter in autoencoder.parameters()]
    list(optimise(loss, iter([images()] * 3), steps=3, rate=1e-2))
    assert {id(p) for p in loss.parameters()} == {id(p) for p in denoiser.parameters()}
    assert all(torch.equal(a, b) for a, b in zip(before, autoencoder.parameters(), strict=True))


def test_both_losses_fall() -> None:
    torch.manual_seed(0)
    config = tiny_recipe()
    # Smooth pictures: noise cannot be learned.
    pixels = np.stack([preprocess(make_image(seed), ImageConfig(), 16) for seed in range(4)])
    x = torch.from_numpy(pixels).float() / 127.5 - 1
    autoencoder, denoiser = build_autoencoder(config), build_denoiser(config)
    stages = (
        lambda: AutoencoderLoss(autoencoder, 1e-3),
        lambda: DenoiserLoss(denoiser, autoencoder, build_schedule()),
    )
    for stage in stages:
        values = list(optimise(stage(), iter([x] * 60), steps=60, rate=3e-3))
        assert sum(values[-10:]) < 0.85 * sum(values[:10])


def test_scaled_latents_have_unit_deviation() -> None:
    torch.manual_seed(0)
    autoencoder, x = build_autoencoder(tiny_recipe()).eval(), images(16)
    set_scaling_factor(autoencoder, x)
    with torch.no_grad():
        latents = autoencoder.encode(x).latent_dist.mean * autoencoder.config.scaling_factor
    assert latents.std().item() == pytest.approx(1, rel=1e-4)


def test_a_target_is_a_pipeline_that_diffusers_can_sample_from(tiny_target: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(tiny_target, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    assert type(pipeline).__name__ == json.loads((tiny_target / "model_index.json").read_text())["_class_name"]
    made = pipeline(num_inference_steps=2, output_type="np").images
    assert made.shape == (1, 16, 16, 3)
