"""The autoencoder of a latent diffusion model: KL (a Gaussian posterior) or VQ (a codebook)."""

from typing import Any, TypeAlias

from diffusers import AutoencoderKL, VQModel
from jaxtyping import Float
from torch import Tensor, nn

from ldm_scale.targets.strided import StridedAutoencoder

KLAutoencoder: TypeAlias = AutoencoderKL | StridedAutoencoder
AnyAutoencoder: TypeAlias = KLAutoencoder | VQModel


def freeze(model: nn.Module) -> Any:
    """The model in eval mode, without gradients to its parameters."""
    return model.eval().requires_grad_(False)


def downsampling(model: AnyAutoencoder) -> int:
    """Pixels of an image's side for each of a latent's."""
    return int(2 ** (len(model.config.block_out_channels) - 1))


class Autoencoder:
    """A KL autoencoder between images in [-1, 1] and scaled latents z = (latent - shift) * scale.

    The latent is the posterior's mode, or mean + std * noise (Rombach et al. 2022, section 3.1 and appendix G).

    Attributes:
        factor: pixels of an image's side for each of a latent's.
    """

    def __init__(self, model: AnyAutoencoder) -> None:
        self._model = freeze(model)
        self._scale = float(model.config.scaling_factor)
        self._shift = float(model.config.get("shift_factor") or 0.0)
        self.factor = downsampling(model)

    def encode(
        self, images: Float[Tensor, "n 3 H W"], noise: Float[Tensor, "*k n c h w"] | None
    ) -> Float[Tensor, "*k n c h w"]:
        return (self._to_latents(images, noise) - self._shift) * self._scale

    def posterior(self, images: Float[Tensor, "n 3 H W"]) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
        """Mean and standard deviation of a KL autoencoder's scaled latents."""
        found = self._model.encode(images).latent_dist
        return (found.mean - self._shift) * self._scale, found.std * self._scale

    def decode(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        return self._to_images(z / self._scale + self._shift)

    def _to_latents(self, images: Tensor, noise: Tensor | None) -> Tensor:
        posterior = self._model.encode(images).latent_dist
        return posterior.mode() if noise is None else posterior.mean + posterior.std * noise

    def _to_images(self, latents: Tensor) -> Tensor:
        return self._model.decode(latents).sample


class VQAutoencoder(Autoencoder):
    """A VQ autoencoder whose latent is the encoder's output before quantisation (Rombach et al. 2022, section 3.1).

    Its posterior is a point, so noise changes nothing. Decoding leaves the quantisation out too: it is piecewise
    constant, and the decoder's Jacobian would be zero.
    """

    def _to_latents(self, images: Tensor, noise: Tensor | None) -> Tensor:
        latents = self._model.encode(images).latents
        return latents if noise is None else latents.expand_as(noise)

    def _to_images(self, latents: Tensor) -> Tensor:
        return self._model.decode(latents, force_not_quantize=True).sample


def make_autoencoder(model: AnyAutoencoder) -> Autoencoder:
    """The autoencoder of a model: diffusers', or one with its methods."""
    return VQAutoencoder(model) if isinstance(model, VQModel) else Autoencoder(model)
