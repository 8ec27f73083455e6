"""The from-scratch networks: their shapes, where attention is, and the latents' scale."""

import pytest
import torch

from ldm_scale.config.train import DenoiserConfig
from ldm_scale.training.networks import build_denoiser, build_schedule, set_scaling_factor
from tests.training.cases import batch, models


def test_the_autoencoder_downsamples_twice_to_four_channels() -> None:
    made = models()
    assert made.autoencoder.encode(batch().images).latent_dist.mean.shape == (4, 4, 4, 4)


@pytest.mark.parametrize("attention", [0, 1, 2])
def test_the_lowest_resolutions_have_the_attention(attention: int) -> None:
    denoiser = build_denoiser(DenoiserConfig(channels=(8, 16), attention=attention), 4, 4, classes=None)
    kinds = [type(block).__name__ for block in (*denoiser.down_blocks, *denoiser.up_blocks)]
    plain = 2 - attention
    assert (
        kinds
        == ["DownBlock2D"] * plain
        + ["AttnDownBlock2D"] * attention
        + ["AttnUpBlock2D"] * attention
        + ["UpBlock2D"] * plain
    )
    assert any("attentions" in name for name, _ in denoiser.mid_block.named_parameters()) == (attention > 0)
    assert denoiser(torch.zeros(1, 4, 4, 4), 0).sample.shape == (1, 4, 4, 4)


def test_betas_are_linear() -> None:
    torch.testing.assert_close(build_schedule().betas, torch.linspace(1e-4, 0.02, 1000))


def test_scaled_latents_have_unit_deviation() -> None:
    autoencoder, x = models().autoencoder.eval(), batch(80).images
    set_scaling_factor(autoencoder, x)
    with torch.no_grad():
        latents = autoencoder.encode(x).latent_dist.mean * autoencoder.config.scaling_factor
    assert latents.std().item() == pytest.approx(1, rel=1e-4)
