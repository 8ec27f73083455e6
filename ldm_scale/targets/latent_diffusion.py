"""What all latent diffusion models with a noise schedule share; a family adds its condition."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, ModelMixin, SchedulerMixin, VQModel
from jaxtyping import Float, Int
from torch import Tensor

from ldm_scale.targets.autoencoder import freeze, make_autoencoder
from ldm_scale.targets.base import Condition, to_noise


class LatentDiffusion(ABC):
    """An autoencoder, a denoiser that predicts eps or v on its scaled latents, and a schedule of alphas_cumprod."""

    def __init__(self, autoencoder: AutoencoderKL | VQModel, denoiser: ModelMixin, schedule: SchedulerMixin) -> None:
        self._autoencoder = make_autoencoder(autoencoder)
        self._denoiser = freeze(denoiser)
        self._prediction_type = str(schedule.config.prediction_type)
        self._device = next(denoiser.parameters()).device
        self.alphas_cumprod = schedule.alphas_cumprod.to(self._device)
        side = int(denoiser.config.sample_size)
        self.latent_shape = (int(denoiser.config.in_channels), side, side)
        self.image_size = side * self._autoencoder.factor

    def encode(
        self, images: Float[Tensor, "n 3 H W"], noise: Float[Tensor, "n c h w"] | None
    ) -> Float[Tensor, "n c h w"]:
        return self._autoencoder.encode(images, noise)

    def decode(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        return self._autoencoder.decode(z)

    @abstractmethod
    def condition(self, captions: Sequence[str | None], labels: Sequence[int | None]) -> Condition:
        """What _denoise takes for these samples."""

    def predict_noise(self, z: Float[Tensor, "n c h w"], t: int, condition: Condition) -> Float[Tensor, "n c h w"]:
        steps = torch.full((len(z),), t, device=self._device)
        output = self._denoise(z, steps, condition)
        return to_noise(output, z, self.alphas_cumprod[t].item(), self._prediction_type)

    @abstractmethod
    def _denoise(
        self, z: Float[Tensor, "n c h w"], steps: Int[Tensor, " n"], condition: Condition
    ) -> Float[Tensor, "n c h w"]:
        """The network's own output, eps or v."""
