"""The paper's from-scratch latent diffusion model: its networks, its two losses, and how it is stored (no Ray)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel
from jaxtyping import Float
from torch import Tensor, nn

from ldm_scale.config import TrainConfig

LATENT_CHANNELS = 4


def _groups(channels: tuple[int, ...]) -> int:
    """The most GroupNorm groups, up to 32, that divide every width and hold two channels or more."""
    return next(groups for groups in (32, 16, 8, 4, 2, 1) if all(width % (2 * groups) == 0 for width in channels))


def build_autoencoder(config: TrainConfig) -> AutoencoderKL:
    """An untrained KL autoencoder that halves the resolution once a width after the first; no mid attention."""
    depth = len(config.vae_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=config.vae_channels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=_groups(config.vae_channels),
        sample_size=config.size,
        mid_block_add_attention=False,
    )


def build_denoiser(config: TrainConfig) -> UNet2DModel:
    """An untrained unconditional U-Net on the autoencoder's latents; no attention."""
    depth = len(config.unet_channels)
    return UNet2DModel(
        sample_size=config.size >> (len(config.vae_channels) - 1),
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D",) * depth,
        up_block_types=("UpBlock2D",) * depth,
        block_out_channels=config.unet_channels,
        layers_per_block=config.unet_layers,
        norm_num_groups=_groups(config.unet_channels),
        add_attention=False,
    )


def build_schedule() -> DDPMScheduler:
    """1,000 linear-beta steps of noise prediction, as in the paper."""
    return DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", prediction_type="epsilon", clip_sample=False)


class AutoencoderLoss(nn.Module):
    """L1 of the reconstruction, mean over pixels, + kl_weight * KL(q(z|x) || N(0, I)), mean over latent elements."""

    def __init__(self, autoencoder: AutoencoderKL, kl_weight: float) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.kl_weight = kl_weight

    def forward(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, ""]:
        posterior = self.autoencoder.encode(images).latent_dist
        latents = posterior.sample()
        reconstruction = (self.autoencoder.decode(latents).sample - images).abs().mean()
        divergence = posterior.kl().sum() / latents.numel()
        return reconstruction + self.kl_weight * divergence


class DenoiserLoss(nn.Module):
    """Mean squared error of the predicted noise at a uniformly random timestep (Ho et al. 2020, eq. 14).

    On the posterior's mode, which is also the latent that an audit looks at by default.
    """

    def __init__(self, denoiser: UNet2DModel, autoencoder: AutoencoderKL, schedule: DDPMScheduler) -> None:
        super().__init__()
        self.denoiser = denoiser
        # In a list, so that the frozen autoencoder is no parameter of the module that is trained.
        self._frozen = [autoencoder.eval().requires_grad_(False)]
        self.schedule = schedule

    def forward(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, ""]:
        autoencoder = self._frozen[0]
        with torch.no_grad():
            latents = autoencoder.encode(images).latent_dist.mode() * autoencoder.config.scaling_factor
        noise = torch.randn_like(latents)
        steps = torch.randint(self.schedule.config.num_train_timesteps, (len(latents),), device=latents.device)
        prediction = self.denoiser(self.schedule.add_noise(latents, noise, steps), steps).sample
        return nn.functional.mse_loss(prediction, noise)


@torch.no_grad()
def set_scaling_factor(autoencoder: AutoencoderKL, images: Float[Tensor, "n 3 H W"]) -> None:
    """Set the scaling factor to 1 / standard deviation of the latents, as in Rombach et al. 2022, appendix G."""
    latents = autoencoder.encode(images).latent_dist.mode()
    autoencoder.register_to_config(scaling_factor=1 / latents.std().item())


def optimise(loss: nn.Module, batches: Iterator[Tensor], steps: int, rate: float) -> Iterator[float]:
    """AdamW with a cosine decay to zero, gradients clipped to norm 1; yields the loss of each step."""
    optimiser = torch.optim.AdamW((p for p in loss.parameters() if p.requires_grad), lr=rate, weight_decay=0)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    loss.train()
    for _ in range(steps):
        value = loss(next(batches))
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
        optimiser.step()
        decay.step()
        yield value.item()


def save_target(
    folder: Path,
    autoencoder: AutoencoderKL,
    denoiser: UNet2DModel,
    schedule: DDPMScheduler,
    half: bool,
    record: dict[str, Any],
) -> None:
    """Write a target in the layout of diffusers' LDMPipeline (safetensors), with `record` as training.json."""
    dtype = torch.float16 if half else torch.float32
    autoencoder.to(dtype).save_pretrained(folder / "vqvae", safe_serialization=True)
    denoiser.to(dtype).save_pretrained(folder / "unet", safe_serialization=True)
    schedule.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "LDMPipeline",
        "vqvae": ["diffusers", "AutoencoderKL"],
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=1))
    (folder / "training.json").write_text(json.dumps(record, indent=1))
