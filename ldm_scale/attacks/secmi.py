"""SecMI: the error of one deterministic DDIM step and back."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ldm_scale.attacks.base import AttackOptions, Evaluations, Exponent


def noise_ratio(abar: float) -> float:
    """r_t = sqrt((1 - abar_t) / abar_t), the noise per signal.

    >>> noise_ratio(0.5)
    1.0
    """
    return math.sqrt((1 - abar) / abar)


@dataclass(frozen=True)
class SecMI(AttackOptions):
    """S_t = y_t - x_t, y_t one DDIM step back from x_{t+s} of the inversion z = x_0, x_s, ...; p = 2 (Duan et al.).

    ICML 2023, arXiv 2302.01316. With s = `step`, eps_t = eps(x_t, t) and
    x0_t = (x_t - sqrt(1 - abar_t) eps_t) / sqrt(abar_t), the DDIM steps there and back are
    x_{t+s} = sqrt(abar_{t+s}) x0_t + sqrt(1 - abar_{t+s}) eps_t and
    y_t = sqrt(abar_t) x0_{t+s} + sqrt(1 - abar_t) eps_{t+s}.
    In r_t = sqrt((1 - abar_t) / abar_t) the first is
    x_{t+s} / sqrt(abar_{t+s}) = x_t / sqrt(abar_t) + (r_{t+s} - r_t) eps_t
    and the second the same backwards with eps_{t+s} for eps_t, so that

        S_t = k_t (eps_{t+s} - eps_t),  k_t = sqrt(abar_t) (r_t - r_{t+s}),

    which needs no difference of the nearly equal y_t and x_t.

    Raises:
        ValueError: The step is not positive, or a timestep is not among the inversion's 0, s, 2 s, ...

    Example:
        A denoiser that predicts its input, from sqrt(abar) = 1 to 0.6, for z = 2:

        >>> z, e = torch.full((1, 1, 1, 2), 2.0), torch.ones(1, 1, 1, 2)
        >>> evaluations = Evaluations(z, torch.tensor([1.0, 0.36]), lambda x, timesteps: x, lambda purpose: e)
        >>> SecMI(timesteps=(0,), step=1).vectors(evaluations).flatten()  # x_1 = 2.8, k_0 (2.8 - 2), k_0 = -4 / 3
        tensor([-1.0667, -1.0667])
    """

    p: Exponent = 2.0
    step: Annotated[int, Field(description="timesteps between two states of the inversion")] = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step < 1:
            raise ValueError(f"step: {self.step} is not positive")
        if missed := [t for t in self.timesteps if t < 0 or t % self.step]:
            raise ValueError(f"timesteps: {missed[0]} is not among 0, {self.step}, {2 * self.step}, ...")

    @property
    def evaluated(self) -> tuple[int, ...]:
        """The whole inversion: 0, s, ..., up to one step beyond the last timestep."""
        return tuple(range(0, max(self.timesteps, default=0) + self.step + 1, self.step))

    def vectors(self, evaluations: Evaluations) -> Float[Tensor, "t n c h w"]:
        """k_t (eps_{t+s} - eps_t) at each timestep."""
        abar, noise = evaluations.alphas_cumprod, self._noises(evaluations)
        ratio = {t: noise_ratio(abar[t]) for t in noise}
        pairs = [(t, t + self.step) for t in self.timesteps]
        factors = [math.sqrt(abar[t]) * (ratio[t] - ratio[after]) for t, after in pairs]
        return torch.stack([k * (noise[after] - noise[t]) for k, (t, after) in zip(factors, pairs, strict=True)])

    def _noises(self, evaluations: Evaluations) -> dict[int, Tensor]:
        """eps_t along the inversion, each (n, c, h, w); the first is SimA's at t = 0."""
        abar, x = evaluations.alphas_cumprod, evaluations.latents
        noise = {0: evaluations.noise_at("z", x, 0)}
        for t, after in pairwise(self.evaluated):
            x = x / math.sqrt(abar[t]) + (noise_ratio(abar[after]) - noise_ratio(abar[t])) * noise[t]
            x = math.sqrt(abar[after]) * x
            noise[after] = evaluations.noise_at(f"z inverted by {self.step}", x, after)
        return noise
