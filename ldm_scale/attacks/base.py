"""What an attack is given and what it returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ldm_scale.config.values import Integers

# (x, timesteps) -> eps: x (t, n, c, h, w) are a batch of the same n samples at each of t timesteps; so is eps.
Denoise = Callable[[Tensor, Sequence[int]], Tensor]
# purpose -> N(0, I), (n, c, h, w).
Draw = Callable[[str], Tensor]
# Options that all attacks have, with the text that --help shows.
Timesteps = Annotated[Integers, Field(description="training timesteps t, as a list or a range start:stop:step")]
Exponent = Annotated[
    float,
    Field(
        gt=0, allow_inf_nan=False, description="exponent of the statistic, the sum of |S_i|^p over kept dimensions i"
    ),
]


class Evaluations:
    """A batch of latents and its denoiser; each named input is evaluated once at each t, and shared by all attacks.

    Args:
        latents: scaled latents z.
        alphas_cumprod: abar_t of the target's schedule, 0 to 1.
        denoise: (x, timesteps) -> eps, for x (t, n, c, h, w).
        draw: purpose -> N(0, I) (n, c, h, w), keyed by each sample and the purpose: no draw depends on the batch.
            Each purpose is drawn once.

    Attributes:
        made: denoiser evaluations so far, one for each sample and timestep.

    Example:
        Loss and Epsilon ask for the same evaluation:

        >>> z, e = torch.full((1, 1, 1, 2), 2.0), torch.ones(1, 1, 1, 2)
        >>> evaluations = Evaluations(z, torch.tensor([1.0, 0.36]), lambda x, timesteps: x, lambda purpose: e)
        >>> _, noise = evaluations.diffused_at((1,))[1]
        >>> evaluations.diffused_at((1,))[1][1] is noise, evaluations.made
        (True, 1)
    """

    def __init__(
        self,
        latents: Float[Tensor, "n c h w"],
        alphas_cumprod: Float[Tensor, " steps"],
        denoise: Denoise,
        draw: Draw,
    ) -> None:
        self.latents = latents
        # Python's floats are float64: in float32, 1 - abar_t would lose its digits at small t.
        self.alphas_cumprod: tuple[float, ...] = tuple(alphas_cumprod.tolist())
        self.draw = cache(draw)
        self.made = 0
        self._denoise = denoise
        self._known: dict[tuple[str, int], Tensor] = {}

    def denoise_each(self, x: Float[Tensor, "t n c h w"], timesteps: Sequence[int]) -> Float[Tensor, "t n c h w"]:
        """eps(x_t, t) for inputs that no other attack has, one of each timestep and batch; they are not kept."""
        self.made += x.shape[0] * x.shape[1]
        return self._denoise(x, timesteps)

    def noise_at(self, name: str, x: Float[Tensor, "n c h w"], t: int) -> Float[Tensor, "n c h w"]:
        """eps(x, t); `name` says which input x is, so that another attack's call with it costs nothing."""
        return self.noises_at(name, {t: x})[t]

    def noises_at(self, name: str, inputs: Mapping[int, Float[Tensor, "n c h w"]]) -> dict[int, Tensor]:
        """eps(x_t, t) by timestep, each (n, c, h, w), for inputs by timestep; those not known yet are one batch."""
        if new := {t: x for t, x in inputs.items() if (name, t) not in self._known}:
            found = self.denoise_each(torch.stack([*new.values()]), (*new,))
            self._known |= {(name, t): noise for t, noise in zip(new, found, strict=True)}
        return {t: self._known[name, t] for t in inputs}

    def diffuse(self, x: Float[Tensor, "n c h w"], e: Float[Tensor, "n c h w"], t: int) -> Float[Tensor, "n c h w"]:
        """x with noise e at timestep t: sqrt(abar_t) x + sqrt(1 - abar_t) e (Ho et al. 2020, eq. 4)."""
        abar = self.alphas_cumprod[t]
        return abar**0.5 * x + (1 - abar) ** 0.5 * e

    def diffused_at(self, timesteps: Sequence[int]) -> dict[int, tuple[Tensor, Tensor]]:
        """The draw e_t and eps(diffuse(z, e_t, t), t), each (n, c, h, w), by timestep; one batch for the denoiser."""
        draws = {t: self.draw(f"noise {t}") for t in timesteps}
        noisy = {t: self.diffuse(self.latents, e, t) for t, e in draws.items()}
        noises = self.noises_at("z with drawn noise", noisy)
        return {t: (e, noises[t]) for t, e in draws.items()}


@runtime_checkable
class Attack(Protocol):
    """What every attack offers. It is a frozen dataclass whose fields are its options.

    Its statistic over kept dimensions I is sum_{i in I} |S_{t,i}|^p; lower means member.
    """

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The training timesteps t of the vectors, in their order."""

    @property
    def evaluated(self) -> tuple[int, ...]:
        """The training timesteps that the denoiser is asked at."""

    @property
    def p(self) -> float:
        """The exponent of the statistic."""

    def vectors(self, evaluations: Evaluations) -> Float[Tensor, "t n c h w"]:
        """S_t(z) for each timestep, in latent space."""


@dataclass(frozen=True)
class AttackOptions:
    """The options that all attacks have; timesteps are SimA's for models trained from scratch (arXiv 2509.25003).

    Raises:
        ValueError: A timestep is given twice.
    """

    timesteps: Timesteps = tuple(range(0, 300, 10))
    p: Exponent = 4.0

    def __post_init__(self) -> None:
        if doubled := [t for t in self.timesteps if self.timesteps.count(t) > 1]:
            raise ValueError(f"timesteps: {doubled[0]} is given twice")

    @property
    def evaluated(self) -> tuple[int, ...]:
        """The timesteps themselves, for an attack that reaches no further."""
        return self.timesteps
