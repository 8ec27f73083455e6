"""A target's predictions at many timesteps of a batch, as many rows at a time as memory holds. Torch only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ldm_scale.device.budget import Budget
from ldm_scale.targets.base import ConditionTensors, Target, condition_of


@dataclass(frozen=True)
class Conditions:
    """What the denoiser is given of n samples, each of which has one condition or several that take turns.

    Attributes:
        values: all different ones.
        places: of the samples' conditions among them, one sample after the other.
        first: of each sample, where its own begin in `places`.
        count: how many each sample has.
        turns: of each timestep t of the schedule: at t, a sample has its condition turns[t] mod count.
    """

    values: ConditionTensors
    places: Int[Tensor, " conditions"]
    first: Int[Tensor, " n"]
    count: Int[Tensor, " n"]
    turns: Int[Tensor, " steps"]

    @classmethod
    def of(
        cls,
        values: ConditionTensors,
        places: Sequence[Sequence[int]],
        evaluated: Iterable[int],
        alphas_cumprod: Float[Tensor, " steps"],
    ) -> "Conditions":
        """Conditions, each sample's given by their places, that take turns over the evaluated timesteps in order."""
        device = alphas_cumprod.device
        count = torch.tensor([*map(len, places)], device=device)
        times = torch.tensor(sorted(set(evaluated)), dtype=torch.long, device=device)
        turns = torch.zeros(len(alphas_cumprod), dtype=torch.long, device=device)
        # At once: each assignment of its own would be a launch on the device, for every batch.
        turns[times] = torch.arange(len(times), device=device)
        return cls(values, torch.tensor([*chain(*places)], device=device), count.cumsum(0) - count, count, turns)

    def at(self, times: Int[Tensor, " rows"], samples: Int[Tensor, " rows"]) -> ConditionTensors:
        """The condition of rows, each of a sample at a timestep."""
        return condition_of(self.values, self.places[self.first[samples] + self.turns[times] % self.count[samples]])


# A caption and a class, of which a sample may lack either.
Given = tuple[str | None, int | None]


class Conditioner:
    """Makes a target's conditions: each of a batch once, and none anew if the last batch had just these."""

    def __init__(self, target: Target) -> None:
        self._target = target
        # To a target of captions, one caption is one condition, whatever its samples' classes.
        self._of_classes = target.refusal(None, 0) is None
        self._known: tuple[Given, ...] = ()
        self._values: ConditionTensors = None

    def make(self, wanted: Sequence[Sequence[Given]]) -> tuple[ConditionTensors, list[list[int]]]:
        """All different conditions of samples, and of each sample the places of its own among them."""
        kept = [[(caption, label if self._of_classes else None) for caption, label in some] for some in wanted]
        places = {given: place for place, given in enumerate(dict.fromkeys(chain(*kept)))}
        if (*places,) != self._known:
            captions, labels = zip(*places, strict=True)
            self._known, self._values = (*places,), self._target.condition(captions, labels)
        return self._values, [[places[given] for given in some] for some in kept]


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
