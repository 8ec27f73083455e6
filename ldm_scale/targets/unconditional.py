"""Unconditional latent diffusion: a KL autoencoder and a UNet2DModel in diffusers' layout."""

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DModel
from jaxtyping import Float
from torch import Tensor

from ldm_scale.targets.base import to_noise


class UnconditionalTarget:
    """The paper's from-scratch model: eps- or v-prediction on the scaled latents of a KL autoencoder."""

    def __init__(self, autoencoder: AutoencoderKL, denoiser: UNet2DModel, schedule: SchedulerMixin) -> None:
        self._autoencoder = autoencoder.eval().requires_grad_(False)
        self._denoiser = denoiser.eval().requires_grad_(False)
        self._scale = float(autoencoder.config.scaling_factor)
        self._shift = float(autoencoder.config.shift_factor or 0.0)
        self._prediction_type = str(schedule.config.prediction_type)
        self._device = next(denoiser.parameters()).device
        self.alphas_cumprod = schedule.alphas_cumprod.to(self._device)
        side = int(denoiser.config.sample_size)
        self.latent_shape = (int(denoiser.config.in_channels), side, side)
        self.image_size = side << (len(autoencoder.config.block_out_channels) - 1)

    def encode(
        self, images: Float[Tensor, "n 3 H W"], noise: Float[Tensor, "n c h w"] | None
    ) -> Float[Tensor, "n c h w"]:
        posterior = self._autoencoder.encode(images).latent_dist
        latents = posterior.mode() if noise is None else posterior.mean + posterior.std * noise
        return (latents - self._shift) * self._scale

    def decode(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        return self._autoencoder.decode(z / self._scale + self._shift).sample

    def condition(self, captions: Sequence[str | None], labels: Sequence[int | None]) -> None:
        return None

    def predict_noise(self, z: Float[Tensor, "n c h w"], t: int, condition: None) -> Float[Tensor, "n c h w"]:
        steps = torch.full((len(z),), t, device=self._device)
        output = self._denoiser(z, steps).sample
        return to_noise(output, z, self.alphas_cumprod[t].item(), self._prediction_type)
