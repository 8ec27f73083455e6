"""The networks of the paper's from-scratch latent diffusion model, untrained."""

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel
from diffusers.models.resnet import ResnetBlock2D
from jaxtyping import Float
from torch import Tensor, nn

from ldm_scale.config.train import AutoencoderConfig, DenoiserConfig

LATENT_CHANNELS = 4


def _groups(channels: tuple[int, ...]) -> int:
    """The most GroupNorm groups, up to 32, that divide every width and hold two channels or more."""
    return next(groups for groups in (32, 16, 8, 4, 2, 1) if all(width % (2 * groups) == 0 for width in channels))


def build_autoencoder(config: AutoencoderConfig, size: int) -> AutoencoderKL:
    """An untrained KL autoencoder without attention; each of its widths after the first halves the resolution."""
    depth = len(config.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=_groups(config.channels),
        sample_size=size,
        mid_block_add_attention=False,
    )


def build_denoiser(config: DenoiserConfig, latent_channels: int, side: int, classes: int | None) -> UNet2DModel:
    """An untrained U-Net on latents of `side` x `side`; unconditional if `classes` is None.

    The lowest `config.attention` resolutions have self-attention of one head (Ho et al. 2020, appendix B).
    """
    plain, attentive = len(config.channels) - config.attention, config.attention
    return UNet2DModel(
        sample_size=side,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",) * attentive,
        up_block_types=("AttnUpBlock2D",) * attentive + ("UpBlock2D",) * plain,
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        norm_num_groups=_groups(config.channels),
        attention_head_dim=None,
        add_attention=attentive > 0,
        num_class_embeds=classes,
    )


def build_schedule(betas: Sequence[float] = (1e-4, 0.02)) -> DDPMScheduler:
    """1,000 linear-beta steps of noise prediction, as in arXiv 2511.20592; betas: the first and the last."""
    first, last = betas
    # By name: diffusers takes what is given by its place for a default, which others then replace.
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=first,
        beta_end=last,
        beta_schedule="linear",
        prediction_type="epsilon",
        clip_sample=False,
    )


def set_dropout(network: nn.Module, share: float) -> None:
    """Let the residual blocks of a network drop out this share of their features in training."""
    for module in network.modules():
        if isinstance(module, ResnetBlock2D):
            module.dropout.p = share


@torch.no_grad()
def set_scaling_factor(autoencoder: AutoencoderKL, images: Float[Tensor, "n 3 H W"]) -> None:
    """Set the scaling factor to 1 / standard deviation of the latents, as in Rombach et al. 2022, appendix G."""
    latents = torch.cat([autoencoder.encode(some).latent_dist.mode() for some in images.split(64)])
    autoencoder.register_to_config(scaling_factor=1 / latents.std().item())
