"""The unconditional target against diffusers' components called directly."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel

from ldm_scale.targets.load import load_target
from ldm_scale.targets.unconditional import UnconditionalTarget
from tests.targets import tiny

SCALE = 1.5  # of the tiny target


@pytest.fixture
def autoencoder(tiny_target: Path) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(tiny_target / "vqvae", low_cpu_mem_usage=False).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_shapes_and_schedule(tiny_target: Path) -> None:
    target = load_target(str(tiny_target), "cpu")
    assert (target.image_size, target.latent_shape) == (16, (4, 4, 4))
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    torch.testing.assert_close(target.alphas_cumprod.double(), (1 - betas).cumprod(0), rtol=1e-4, atol=1e-7)


def test_encode_is_the_scaled_mode(tiny_target: Path, autoencoder: AutoencoderKL, images: torch.Tensor) -> None:
    with torch.no_grad():
        expected = autoencoder.encode(images).latent_dist.mean * SCALE
        found = load_target(str(tiny_target), "cpu").encode(images, None)
    torch.testing.assert_close(found, expected)


def test_encode_samples_with_the_given_noise(
    tiny_target: Path, autoencoder: AutoencoderKL, images: torch.Tensor
) -> None:
    noise = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        posterior = autoencoder.encode(images).latent_dist
        found = load_target(str(tiny_target), "cpu").encode(images, noise)
    torch.testing.assert_close(found, (posterior.mean + posterior.std * noise) * SCALE)


def test_decode_undoes_the_scale_and_does_not_clamp(tiny_target: Path, autoencoder: AutoencoderKL) -> None:
    z = 40 * torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = autoencoder.decode(z / SCALE).sample
        found = load_target(str(tiny_target), "cpu").decode(z)
    torch.testing.assert_close(found, expected)


def test_shift_is_taken_off_before_the_scale(
    tiny_target: Path, autoencoder: AutoencoderKL, images: torch.Tensor
) -> None:
    autoencoder.register_to_config(shift_factor=0.25)
    denoiser = UNet2DModel.from_pretrained(tiny_target / "unet", low_cpu_mem_usage=False)
    target = UnconditionalTarget(autoencoder, denoiser, DDPMScheduler())
    with torch.no_grad():
        mode = autoencoder.encode(images).latent_dist.mean
        torch.testing.assert_close(target.encode(images, None), (mode - 0.25) * SCALE)
        torch.testing.assert_close(target.decode(target.encode(images, None)), autoencoder.decode(mode).sample)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_noise_is_the_networks_own(tiny_target: Path, prediction_type: str) -> None:
    denoiser = UNet2DModel.from_pretrained(tiny_target / "unet", low_cpu_mem_usage=False).eval()
    autoencoder = AutoencoderKL.from_pretrained(tiny_target / "vqvae", low_cpu_mem_usage=False)
    schedule = DDPMScheduler(prediction_type=prediction_type)
    target = UnconditionalTarget(autoencoder, denoiser, schedule)
    z = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        output = torch.cat([denoiser(sample[None], torch.tensor(70)).sample for sample in z])
        found = target.predict_noise(z, tiny.at(70, z), target.condition([None, None], [None, None]))
    abar = schedule.alphas_cumprod[70]
    expected = output if prediction_type == "epsilon" else abar.sqrt() * output + (1 - abar).sqrt() * z
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_parameters_are_frozen_and_models_in_eval_mode(tiny_target: Path, autoencoder: AutoencoderKL) -> None:
    denoiser = UNet2DModel.from_pretrained(tiny_target / "unet", low_cpu_mem_usage=False).train()
    UnconditionalTarget(autoencoder.train().requires_grad_(True), denoiser, DDPMScheduler())
    for model in (autoencoder, denoiser):
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
