"""What an attack is given and what it returns."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

Denoise = Callable[[Tensor, int], Tensor]


class Evaluations:
    """A batch of latents and its denoiser, each (input, t) of which is evaluated once and shared by all attacks.

    latents: scaled latents z, (n, c, h, w). alphas_cumprod: abar_t of the target's schedule. denoise(x, t): eps(x, t).
    """

    def __init__(
        self, latents: Float[Tensor, "n c h w"], alphas_cumprod: Float[Tensor, " steps"], denoise: Denoise
    ) -> None:
        self.latents = latents
        self.alphas_cumprod = alphas_cumprod
        self._denoise = denoise
        self._known: dict[tuple[str, int], Tensor] = {}

    def noise_at(self, name: str, x: Float[Tensor, "n c h w"], t: int) -> Float[Tensor, "n c h w"]:
        """eps(x, t); `name` says which input x is, so that another attack's call with it costs nothing."""
        if (name, t) not in self._known:
            self._known[name, t] = self._denoise(x, t)
        return self._known[name, t]


@runtime_checkable
class Attack(Protocol):
    """A frozen dataclass whose fields are the attack's options.

    Its statistic over kept dimensions I is sum_{i in I} |S_{t,i}|^p; lower means member.
    """

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The training timesteps t, in order."""
        ...

    @property
    def p(self) -> float:
        """The exponent of the statistic."""
        ...

    def vectors(self, evaluations: Evaluations) -> Float[Tensor, "t n c h w"]:
        """S_t(z) for each timestep, in latent space."""
        ...
