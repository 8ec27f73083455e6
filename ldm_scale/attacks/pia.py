"""PIA: the Loss with the denoiser's own prediction at t = 0 in place of a drawn noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ldm_scale.attacks.base import AttackOptions, Evaluations


def first_noise(evaluations: Evaluations) -> Float[Tensor, "n c h w"]:
    """e0 = eps(z, 0), which is SimA's evaluation at t = 0."""
    return evaluations.noise_at("z", evaluations.latents, 0)


def residuals(
    evaluations: Evaluations, name: str, e: Float[Tensor, "n c h w"], timesteps: Sequence[int]
) -> Float[Tensor, "t n c h w"]:
    """e - eps(sqrt(abar_t) z + sqrt(1 - abar_t) e, t) at each timestep, for one noise e; `name` says which."""
    noisy = {t: evaluations.diffuse(evaluations.latents, e, t) for t in timesteps}
    return e - torch.stack([*evaluations.noises_at(f"z with {name}", noisy).values()])


@dataclass(frozen=True)
class PIA(AttackOptions):
    """S_t = e0 - eps(sqrt(abar_t) z + sqrt(1 - abar_t) e0, t), e0 = eps(z, 0); p = 4 (Kong et al., ICLR 2024).

    arXiv 2305.18355.

    Example:
        A denoiser that predicts its input, at a timestep of sqrt(abar) = 0.6, for z = 2 and so e0 = 2:

        >>> z, e = torch.full((1, 1, 1, 2), 2.0), torch.ones(1, 1, 1, 2)
        >>> evaluations = Evaluations(z, torch.tensor([1.0, 0.36]), lambda x, timesteps: x, lambda purpose: e)
        >>> PIA(timesteps=(1,)).vectors(evaluations).flatten()  # 2 - (0.6 * 2 + 0.8 * 2)
        tensor([-0.8000, -0.8000])
    """

    @property
    def evaluated(self) -> tuple[int, ...]:
        """The timesteps, and 0 for e0."""
        return (0, *self.timesteps)

    def vectors(self, evaluations: Evaluations) -> Float[Tensor, "t n c h w"]:
        """e0 minus the prediction of it at each timestep."""
        return residuals(evaluations, "e0", first_noise(evaluations), self.timesteps)
