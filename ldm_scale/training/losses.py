"""The two losses of a latent diffusion model: the autoencoder's, and the denoiser's on its latents."""

import torch
from diffusers import DDPMScheduler, ModelMixin
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from jaxtyping import Float
from torch import Tensor, nn

from ldm_scale.targets.autoencoder import KLAutoencoder
from ldm_scale.training.conditions import Batch, Condition


class AutoencoderLoss(nn.Module):
    """L1 of the reconstruction, mean over pixels, + kl_weight * KL(q(z|x) || N(0, I)), mean over latent dimensions."""

    def __init__(self, autoencoder: KLAutoencoder, kl_weight: float) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.kl_weight = kl_weight

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        moments = self.autoencoder.encode(batch.inputs).latent_dist.parameters
        # In float32, whatever the precision of the network: the KL term takes the exponential of the log variance.
        posterior = DiagonalGaussianDistribution(moments.float())
        latents = posterior.sample()
        reconstruction = self.autoencoder.decode(latents).sample.float()
        divergence = posterior.kl().sum() / latents.numel()
        return (reconstruction - batch.inputs).abs().mean() + self.kl_weight * divergence


class DenoiserLoss(nn.Module):
    """Mean squared error of the network's output at a uniformly random timestep (Ho et al. 2020, eq. 14).

    The output is compared with the noise, or, if the schedule predicts v, with
    v = sqrt(abar) noise - sqrt(1 - abar) z (Salimans & Ho 2022), of a batch of scaled latents z.
    """

    def __init__(self, denoiser: ModelMixin, schedule: DDPMScheduler, condition: Condition) -> None:
        super().__init__()
        self.denoiser = denoiser
        self._condition = condition
        self._schedule = schedule

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        z = batch.inputs
        with torch.autocast("cuda" if z.is_cuda else "cpu", enabled=False):
            condition = self._condition(batch)
        noise = torch.randn_like(z)
        steps = torch.randint(self._schedule.config.num_train_timesteps, (len(z),), device=z.device)
        output = self.denoiser(self._schedule.add_noise(z, noise, steps), steps, **condition).sample
        predicts_v = self._schedule.config.prediction_type == "v_prediction"
        wanted = self._schedule.get_velocity(z, noise, steps) if predicts_v else noise
        return nn.functional.mse_loss(output.float(), wanted)
