"""A target's predictions at many timesteps of a batch, as many rows at a time as memory holds. Torch only."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ldm_scale.device.budget import Budget
from ldm_scale.targets.base import Condition, Target, condition_of


def predict_noises(
    target: Target,
    condition: Condition,
    budget: Budget,
    x: Float[Tensor, "t n c h w"],
    timesteps: Sequence[int],
) -> Float[Tensor, "t n c h w"]:
    """eps(x_t, t, c) of n samples at each of t timesteps.

    Args:
        target: whose denoiser predicts.
        condition: c of the samples, as from `target.condition`.
        budget: of rows, a sample at a timestep each. How it splits them changes the result by rounding alone.
        x: x_t, the noisy latents at each timestep.
        timesteps: training timesteps t.

    Raises:
        RunError: The device does not hold one row.
    """
    rows, samples = x.flatten(0, 1), torch.arange(x.shape[1], device=x.device).repeat(x.shape[0])
    times = torch.tensor(timesteps, device=x.device).repeat_interleave(x.shape[1])

    def predict(some: slice) -> Tensor:
        return target.predict_noise(rows[some], times[some], condition_of(condition, samples[some]))

    return torch.cat(budget.run(predict, len(rows))).unflatten(0, x.shape[:2])
