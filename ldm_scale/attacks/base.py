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

# eps of inputs (t, n, c, h, w), those of each of t timesteps a batch of the same n samples, in the shape of the inputs.
Denoise = Callable[[Tensor, Sequence[int]], Tensor]
Draw = Callable[[str], Tensor]
# Options that all attacks have, with the text that --help shows.
Timesteps = Annotated[Integers, Field(description="training timesteps t, as a list or a range start:stop:step")]
Exponent = Annotated[float, Field(description="exponent of the statistic, the sum of |S_i|^p over kept dimensions i")]


class Evaluations:
    """A batch of latents and its denoiser, each (input, t) of which is evaluated once and shared by all attacks.

    latents: scaled latents z, (n, c, h, w). alphas_cumprod: abar_t of the target's schedule. made: evaluations so far,
    one a sample. draw(purpose): N(0, I), (n, c, h, w), keyed by each sample and
    the purpose, so that a draw does not depend on the batch; made once.
    """

    def __init__(
        self,
        latents: Float[Tensor, "n c h w"],
        alphas_cumprod: Float[Tensor, " steps"],
        denoise: Denoise,
        draw: Draw,
    ) -> None:
        self.latents = latents
        # Python's floats: what 1 - abar_t keeps of a float64 schedule at small t, single precision would lose.
        self.alphas_cumprod: tuple[float, ...] = tuple(alphas_cumprod.tolist())
        self.draw = cache(draw)
        self.made = 0
        self._denoise = denoise
        self._known: dict[tuple[str, int], Tensor] = {}

    def denoise(self, x: Float[Tensor, "n c h w"], t: int) -> Float[Tensor, "n c h w"]:
        """eps(x, t), never shared, for inputs that no other attack has."""
        return self.denoise_each(x[None], (t,))[0]

    def denoise_each(self, x: Float[Tensor, "t n c h w"], timesteps: Sequence[int]) -> Float[Tensor, "t n c h w"]:
        """eps(x_t, t) for an input of each timestep, one batch for the denoiser; never shared."""
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
        """sqrt(abar_t) x + sqrt(1 - abar_t) e."""
        abar = self.alphas_cumprod[t]
        return abar**0.5 * x + (1 - abar) ** 0.5 * e

    def diffused(self, t: int) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
        """The draw e_t, and eps(diffuse(z, e_t, t), t)."""
        return self.diffused_at((t,))[t]

    def diffused_at(self, timesteps: Sequence[int]) -> dict[int, tuple[Tensor, Tensor]]:
        """diffused(t) by timestep, one batch for the denoiser."""
        draws = {t: self.draw(f"noise {t}") for t in timesteps}
        noisy = {t: self.diffuse(self.latents, e, t) for t, e in draws.items()}
        noises = self.noises_at("z with drawn noise", noisy)
        return {t: (e, noises[t]) for t, e in draws.items()}


@runtime_checkable
class Attack(Protocol):
    """A frozen dataclass whose fields are the attack's options.

    Its statistic over kept dimensions I is sum_{i in I} |S_{t,i}|^p; lower means member.
    """

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The training timesteps t of the vectors, in their order."""
        ...

    @property
    def evaluated(self) -> tuple[int, ...]:
        """The training timesteps that the denoiser is asked at."""
        ...

    @property
    def p(self) -> float:
        """The exponent of the statistic."""
        ...

    def vectors(self, evaluations: Evaluations) -> Float[Tensor, "t n c h w"]:
        """S_t(z) for each timestep, in latent space."""
        ...


@dataclass(frozen=True)
class AttackOptions:
    """The options that all attacks have; timesteps are SimA's for models trained from scratch (arXiv 2509.25003).

    Raises ValueError for a timestep given twice.
    """

    timesteps: Timesteps = tuple(range(0, 300, 10))
    p: Exponent = 4.0

    def __post_init__(self) -> None:
        if doubled := [t for t in self.timesteps if self.timesteps.count(t) > 1]:
            raise ValueError(f"timesteps: {doubled[0]} is given twice")

    @property
    def evaluated(self) -> tuple[int, ...]:
        """The timesteps themselves, where the attack reaches no further."""
        return self.timesteps
