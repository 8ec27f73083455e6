"""A target's predictions for many timesteps of a batch, in as many rows at a time as memory holds. Torch only."""

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
    """eps(x_t, t, c) of n samples at each of t timesteps; a row of the budget is a sample at a timestep.

    Where the rows are parted changes the result by rounding alone. Raises RunError where one row does not fit.
    """
    rows, samples = x.flatten(0, 1), torch.arange(x.shape[1], device=x.device).repeat(x.shape[0])
    times = torch.tensor(timesteps, device=x.device).repeat_interleave(x.shape[1])

    def predict(some: slice) -> Tensor:
        return target.predict_noise(rows[some], times[some], condition_of(condition, samples[some]))

    return torch.cat(budget.run(predict, len(rows))).unflatten(0, x.shape[:2])
