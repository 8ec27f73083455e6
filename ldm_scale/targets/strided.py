"""The autoencoder of the paper's from-scratch targets: strided convolutions down, transposed convolutions up."""

from collections.abc import Sequence
from itertools import pairwise
from math import gcd

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from jaxtyping import Float
from torch import Tensor, nn

GROUPS = 32


def _norm(width: int) -> nn.GroupNorm:
    """As many groups, up to 32, as divide the width."""
    return nn.GroupNorm(gcd(width, GROUPS), width)


class _Residual(nn.Module):
    """x + f(x), with f twice a norm, SiLU and a convolution, and dropout between the two."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        first, second = ((_norm(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)) for _ in range(2))
        self.layers = nn.Sequential(*first, nn.Dropout(dropout), *second)

    def forward(self, x: Float[Tensor, "n width h w"]) -> Float[Tensor, "n width h w"]:
        return x + self.layers(x)


class StridedAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A KL autoencoder of residual blocks without attention, with the methods of diffusers' AutoencoderKL.

    Args:
        block_out_channels: widths, one a resolution; each after the first halves it. The paper's are 128, 128, 256:
            4.79M weights.
        layers_per_block: residual blocks a resolution.
        dropout: in each of them, in training.
        scaling_factor: of the latents; the paper's are not scaled.
        sample_size: side of the images it was trained on, in pixels.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 4,
        block_out_channels: Sequence[int] = (128, 128, 256),
        layers_per_block: int = 1,
        dropout: float = 0.1,
        scaling_factor: float = 1.0,
        sample_size: int | None = None,
    ) -> None:
        super().__init__()

        def residuals(width: int) -> list[nn.Module]:
            return [_Residual(width, dropout) for _ in range(layers_per_block)]

        first, last = block_out_channels[0], block_out_channels[-1]
        down: list[nn.Module] = [nn.Conv2d(in_channels, first, 3, padding=1), *residuals(first)]
        up: list[nn.Module] = []
        for above, below in pairwise(block_out_channels):
            down += [nn.Conv2d(above, below, 3, stride=2, padding=1), *residuals(below)]
            up = [*residuals(below), nn.ConvTranspose2d(below, above, 4, stride=2, padding=1), *up]
        self.encoder = nn.Sequential(*down)
        self.to_mean = nn.Conv2d(last, latent_channels, 1)
        self.to_log_variance = nn.Conv2d(last, latent_channels, 1)
        self.from_latent = nn.Conv2d(latent_channels, last, 1)
        ending = (_norm(first), nn.SiLU(), nn.Conv2d(first, in_channels, 3, padding=1))
        self.decoder = nn.Sequential(*up, *residuals(first), *ending)

    def encode(self, x: Float[Tensor, "n channels H W"]) -> AutoencoderKLOutput:
        """The posterior of unscaled latents."""
        features = self.encoder(x)
        moments = torch.cat([self.to_mean(features), self.to_log_variance(features)], dim=1)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments))

    def decode(self, z: Float[Tensor, "n latent h w"]) -> DecoderOutput:
        """Images of unscaled latents."""
        return DecoderOutput(sample=self.decoder(self.from_latent(z)))
