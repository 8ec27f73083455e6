"""How noisy each training timestep is, and how a network's output becomes a prediction of the noise."""

from collections.abc import Callable

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SchedulerMixin
from jaxtyping import Float, Int
from torch import Tensor

from ldm_scale.targets.base import by_row, to_noise

# A denoiser of rows whose conditions it knows: (x, the time of each row as the network takes it) -> output.
Network = Callable[[Tensor, Tensor], Tensor]


class NoiseSchedule:
    """Diffusion: x_t = sqrt(abar_t) z + sqrt(1 - abar_t) e, and a network that predicts e or v."""

    def __init__(self, scheduler: SchedulerMixin, device: torch.device) -> None:
        self.alphas_cumprod: Float[Tensor, " steps"] = scheduler.alphas_cumprod.to(device)
        self._prediction_type = str(scheduler.config.prediction_type)

    def predict_noise(
        self, network: Network, x: Float[Tensor, "n c h w"], t: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        """eps(x_t, t) of each row."""
        return to_noise(network(x, t), x, self.alphas_cumprod[t].double(), self._prediction_type)


def dynamic_shift(tokens: int, scheduler: FlowMatchEulerDiscreteScheduler) -> float:
    """mu, the log of the shift for images of so many tokens: linear between two lengths, as in FLUX's pipeline."""
    low, high = scheduler.config.base_image_seq_len, scheduler.config.max_image_seq_len
    base, most = scheduler.config.base_shift or 0.5, scheduler.config.max_shift or 1.15
    return base + (most - base) * (tokens - low) / (high - low)


class FlowSchedule:
    """Rectified flow (Liu et al. 2023; SD3, Esser et al. 2024): x_sigma = (1 - sigma) z + sigma e, v = e - z.

    Hence e = x_sigma + (1 - sigma) v. Attacks assume variance-preserving diffusion, which differs by a factor:
    with abar_t = (1 - sigma_t)^2 / ((1 - sigma_t)^2 + sigma_t^2),
    x_sigma = x_t sqrt((1 - sigma_t)^2 + sigma_t^2). sigma_t are the sampler's own for as many steps as there are
    training timesteps, including its shift (and the dynamic one of an image of so many tokens); t counts upwards
    from the least noise. The network takes sigma_t times the number of training timesteps as its time. float64, for
    1 - abar_t at small t.
    """

    def __init__(self, scheduler: FlowMatchEulerDiscreteScheduler, tokens: int, device: torch.device) -> None:
        self._steps = int(scheduler.config.num_train_timesteps)
        evenly = np.linspace(1, 1 / self._steps, self._steps)
        # mu is ignored if the shift is static; the last sigma is the 0 after the last step.
        scheduler.set_timesteps(sigmas=evenly, mu=dynamic_shift(tokens, scheduler))
        self.sigmas: Float[Tensor, " steps"] = scheduler.sigmas[:-1].flip(0).double().to(device)
        signal, noise = (1 - self.sigmas) ** 2, self.sigmas**2
        self.alphas_cumprod: Float[Tensor, " steps"] = signal / (signal + noise)

    def predict_noise(
        self, network: Network, x: Float[Tensor, "n c h w"], t: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        """eps(x_t, t) of each row."""
        sigma = self.sigmas[t]
        scaled = x * by_row(((1 - sigma) ** 2 + sigma**2).sqrt(), x)
        return scaled + by_row(1 - sigma, x) * network(scaled, (sigma * self._steps).to(x))


def make_schedule(scheduler: SchedulerMixin, tokens: int, device: torch.device) -> NoiseSchedule | FlowSchedule:
    """The schedule of diffusers' sampler, for images of so many tokens, on a device."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return FlowSchedule(scheduler, tokens, device)
    return NoiseSchedule(scheduler, device)
