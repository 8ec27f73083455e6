"""The from-scratch networks: their shapes, where attention is, and the latents' scale."""

import pytest
import torch

from ldm_scale.config.train import DenoiserConfig
from ldm_scale.training.networks import build_denoiser, build_schedule, set_scaling_factor
from tests.training.cases import batch, models


def test_the_autoencoder_downsamples_twice_to_four_channels() -> None:
    made = models()
    assert made.autoencoder.encode(batch().inputs).latent_dist.mean.shape == (4, 4, 4, 4)


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
    torch.testing.assert_close(build_schedule((1.5e-3, 1.95e-2)).betas, torch.linspace(1.5e-3, 1.95e-2, 1000))


@pytest.mark.parametrize("stage", ["autoencoder", "denoiser"])
def test_residual_blocks_drop_out_their_share_in_training_alone(stage: str) -> None:
    network = getattr(models(**{stage: {"dropout": 0.25}}), stage)
    blocks = [module for module in network.modules() if type(module).__name__ == "ResnetBlock2D"]
    assert len(blocks) > 4
    shares: list[float] = []
    for block in blocks:
        block.dropout.register_forward_hook(lambda _, given, made: shares.append(dropped(given[0], made)))
    x = batch().inputs if stage == "autoencoder" else torch.randn(4, 4, 4, 4)
    told = () if stage == "autoencoder" else (0,)
    network.train()(x, *told)
    assert len(shares) == len(blocks)
    assert sum(shares) / len(shares) == pytest.approx(0.25, abs=0.05)
    shares.clear()
    network.eval()(x, *told)
    assert set(shares) == {0.0}


def dropped(given: torch.Tensor, made: torch.Tensor) -> float:
    """The share of features that are zero only afterwards."""
    return ((made == 0) & (given != 0)).float().mean().item()


def test_scaled_latents_have_unit_deviation() -> None:
    autoencoder, x = models().autoencoder.eval(), batch(80).inputs
    set_scaling_factor(autoencoder, x)
    with torch.no_grad():
        latents = autoencoder.encode(x).latent_dist.mean * autoencoder.config.scaling_factor
    assert latents.std().item() == pytest.approx(1, rel=1e-4)
