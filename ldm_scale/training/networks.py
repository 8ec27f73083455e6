"""The networks of the paper's from-scratch latent diffusion model, untrained."""

from typing import TypeVar

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel
from diffusers.models.resnet import ResnetBlock2D
from jaxtyping import Float
from torch import Tensor, nn

from ldm_scale.config.train import AutoencoderConfig, DenoiserConfig
from ldm_scale.errors import UsageError
from ldm_scale.targets.autoencoder import KLAutoencoder
from ldm_scale.targets.class_token import ClassTokenUNet
from ldm_scale.targets.strided import StridedAutoencoder

LATENT_CHANNELS = 4
Built = TypeVar("Built", bound=nn.Module)


def _groups(channels: tuple[int, ...]) -> int:
    """The most GroupNorm groups, up to 32, that divide every width and hold two channels or more."""
    tried = (groups for groups in (32, 16, 8, 4, 2) if min(channels) >= 2 * groups)
    return next((groups for groups in tried if all(width % groups == 0 for width in channels)), 1)


def _set_dropout(network: Built, share: float) -> Built:
    """The network, whose residual blocks drop out this share of their features in training."""
    for module in network.modules():
        if isinstance(module, ResnetBlock2D):
            module.dropout.p = share
    return network


def build_autoencoder(config: AutoencoderConfig, size: int) -> KLAutoencoder:
    """An untrained KL autoencoder without attention; each of its widths after the first halves the resolution."""
    if config.kind == "strided":
        return StridedAutoencoder(
            latent_channels=LATENT_CHANNELS,
            block_out_channels=config.channels,
            layers_per_block=config.layers,
            dropout=config.dropout,
            sample_size=size,
        )
    depth = len(config.channels)
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=_groups(config.channels),
        sample_size=size,
        mid_block_add_attention=False,
    )
    return _set_dropout(autoencoder, config.dropout)


def build_denoiser(
    config: DenoiserConfig, latent_channels: int, side: int, classes: int | None
) -> UNet2DModel | ClassTokenUNet:
    """An untrained U-Net on latents of `side` x `side`; unconditional if `classes` is None.

    The lowest `config.attention` resolutions have self-attention of one head (Ho et al. 2020, appendix B), or attend to
    the token of the class, too.
    """
    shape = {
        "sample_size": side,
        "in_channels": latent_channels,
        "out_channels": latent_channels,
        "block_out_channels": config.channels,
        "layers_per_block": config.layers,
        "norm_num_groups": _groups(config.channels),
        "num_class_embeds": classes,
    }
    if config.kind == "class-token":
        return _set_dropout(ClassTokenUNet(attending=config.attention, **shape), config.dropout)
    plain, attentive = len(config.channels) - config.attention, config.attention
    denoiser = UNet2DModel(
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",) * attentive,
        up_block_types=("AttnUpBlock2D",) * attentive + ("UpBlock2D",) * plain,
        attention_head_dim=None,
        add_attention=attentive > 0,
        **shape,
    )
    return _set_dropout(denoiser, config.dropout)


def check_halved(size: int, factor: int, resolutions: int) -> None:
    """Raise UsageError if an image's side is not whole at the U-Net's lowest resolution.

    factor: by which the autoencoder divides it. resolutions: of the U-Net; each after the first halves it.
    """
    whole = factor * 2 ** (resolutions - 1)
    if size % whole:
        raise UsageError(f"size = {size}: autoencoder and U-Net halve it to a whole number for multiples of {whole}")


def build_schedule(beta_start: float = 1e-4, beta_end: float = 0.02) -> DDPMScheduler:
    """1,000 linear-beta steps of noise prediction; by default those of Ho et al. 2020 and arXiv 2511.20592."""
    # By name: diffusers takes what is given by its place for a default, which others then replace.
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=beta_start,
        beta_end=beta_end,
        beta_schedule="linear",
        prediction_type="epsilon",
        clip_sample=False,
    )


@torch.no_grad()
def set_scaling_factor(autoencoder: KLAutoencoder, images: Float[Tensor, "n 3 H W"]) -> None:
    """Set the scaling factor to 1 / standard deviation of the latents, as in Rombach et al. 2022, appendix G."""
    latents = torch.cat([autoencoder.encode(some).latent_dist.mode() for some in images.split(64)])
    autoencoder.register_to_config(scaling_factor=1 / latents.std().item())
