"""The from-scratch networks: their shapes, where attention is, and the latents' scale."""

import pytest
import torch

from ldm_scale.config.train import AutoencoderConfig, DenoiserConfig
from ldm_scale.targets.class_token import ClassTokenUNet
from ldm_scale.targets.strided import StridedAutoencoder
from ldm_scale.training.networks import build_autoencoder, build_denoiser, build_schedule, set_scaling_factor
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


def count(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def test_the_papers_networks_have_its_weights() -> None:
    with torch.device("meta"):
        autoencoder = build_autoencoder(AutoencoderConfig(kind="strided", channels=(128, 128, 256)), 32)
        unets = [
            build_denoiser(DenoiserConfig(channels=channels, layers=2), 4, 8, classes=None)
            for channels in ((128, 256, 256, 256), (224, 448, 672, 896))
        ]
        classes = DenoiserConfig(kind="class-token", channels=(192, 384, 576, 960), layers=2, attention=3, classes=True)
        tokens = build_denoiser(classes, 4, 32, classes=1000)
    assert isinstance(autoencoder, StridedAutoencoder)
    assert isinstance(tokens, ClassTokenUNet)
    found = [count(autoencoder), *map(count, unets), count(tokens.unet)]
    assert found == pytest.approx([4.79e6, 34.2e6, 241.7e6, 400.9e6], rel=0.002)
    # Theirs: 32 wherever that divides the width.
    assert {unet.config.norm_num_groups for unet in (*unets, tokens)} == {32}


@pytest.mark.parametrize(
    ("channels", "groups"), [((64, 128, 128), 32), ((16, 16, 32), 8), ((224, 448), 32), ((48, 64), 16), ((3, 6), 1)]
)
def test_groups_divide_every_width_and_hold_two_channels(channels: tuple[int, ...], groups: int) -> None:
    assert build_autoencoder(AutoencoderConfig(channels=channels), 16).config.norm_num_groups == groups


@pytest.mark.parametrize("betas", [(1e-4, 0.02), (1.5e-3, 1.95e-2)])
def test_betas_are_linear(betas: tuple[float, float]) -> None:
    torch.testing.assert_close(build_schedule(*betas).betas, torch.linspace(*betas, 1000))
    torch.testing.assert_close(build_schedule().betas, torch.linspace(1e-4, 0.02, 1000))


@pytest.mark.parametrize(
    ("stage", "kind"),
    [("autoencoder", "resnet"), ("autoencoder", "strided"), ("denoiser", "unet"), ("denoiser", "class-token")],
)
def test_residual_blocks_drop_out_their_share_in_training_alone(stage: str, kind: str) -> None:
    classes = kind == "class-token"
    options = {"kind": kind, "dropout": 0.25} | ({"classes": True, "attention": 1} if classes else {})
    network = getattr(models(**{stage: options}), stage)
    blocks = [module for module in network.modules() if type(module).__name__ in ("ResnetBlock2D", "_Residual")]
    assert len(blocks) > 4
    shares: list[float] = []
    for block in blocks:
        (dropout,) = (module for module in block.modules() if isinstance(module, torch.nn.Dropout))
        dropout.register_forward_hook(lambda _, given, made: shares.append(dropped(given[0], made)))
    labels = torch.zeros(4, dtype=torch.long)

    def use() -> None:
        if stage == "autoencoder":
            network.decode(network.encode(batch().inputs).latent_dist.mean)
        else:
            network(torch.randn(4, 4, 4, 4), labels, *[labels] * classes)

    network.train()
    use()
    assert len(shares) == len(blocks)
    assert sum(shares) / len(shares) == pytest.approx(0.25, abs=0.05)
    shares.clear()
    network.eval()
    use()
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
