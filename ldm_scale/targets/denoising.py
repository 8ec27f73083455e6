"""A target's predictions at many timesteps of a batch, as many rows at a time as memory holds. Torch only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ldm_scale.device.budget import Budget
from ldm_scale.targets.base import ConditionTensors, Target, condition_of


@dataclass(frozen=True)
class Conditions:
    """What the denoiser is given of n samples, each of which has one condition or several that take turns.

    Attributes:
        values: one after the other, those of a sample together.
        first: the place of each sample's first one.
        count: how many each sample has.
        turns: of each timestep t of the schedule: at t, a sample has its condition turns[t] mod count.
    """

    values: ConditionTensors
    first: Int[Tensor, " n"]
    count: Int[Tensor, " n"]
    turns: Int[Tensor, " steps"]

    @classmethod
    def of(
        cls,
        values: ConditionTensors,
        counts: Sequence[int],
        evaluated: Iterable[int],
        alphas_cumprod: Float[Tensor, " steps"],
    ) -> "Conditions":
        """Conditions that take turns over the timesteps that are evaluated, in ascending order."""
        count = torch.tensor(counts, device=alphas_cumprod.device)
        times = torch.tensor(sorted(set(evaluated)), dtype=torch.long, device=count.device)
        turns = torch.zeros(len(alphas_cumprod), dtype=torch.long, device=count.device)
        # At once: each assignment of its own would be a launch on the device, for every batch.
        turns[times] = torch.arange(len(times), device=count.device)
        return cls(values, count.cumsum(0) - count, count, turns)

    def at(self, times: Int[Tensor, " rows"], samples: Int[Tensor, " rows"]) -> ConditionTensors:
        """The condition of rows, each of a sample at a timestep."""
        return condition_of(self.values, self.first[samples] + self.turns[times] % self.count[samples])


def predict_noises(
    target: Target,
    conditions: Conditions,
    budget: Budget,
    x: Float[Tensor, "t n c h w"],
    timesteps: Sequence[int],
) -> Float[Tensor, "t n c h w"]:
    """eps(x_t, t, c) of n samples at each of t timesteps.

    Args:
        target: whose denoiser predicts.
        conditions: c of the samples, with values as from `target.condition`.
        budget: of rows, a sample at a timestep each. How it splits them changes the result by rounding alone.
        x: x_t, the noisy latents at each timestep.
        timesteps: training timesteps t.

    Raises:
        RunError: The device does not hold one row.
    """
    rows, samples = x.flatten(0, 1), torch.arange(x.shape[1], device=x.device).repeat(x.shape[0])
    times = torch.tensor(timesteps, device=x.device).repeat_interleave(x.shape[1])

    def predict(some: slice) -> Tensor:
        return target.predict_noise(rows[some], times[some], conditions.at(times[some], samples[some]))

    return torch.cat(budget.run(predict, len(rows))).unflatten(0, x.shape[:2])
