"""Epsilon: the denoiser's prediction on the latent with a drawn noise."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ldm_scale.attacks.base import AttackOptions, Evaluations


@dataclass(frozen=True)
class Epsilon(AttackOptions):
    """S_t = eps(sqrt(abar_t) z + sqrt(1 - abar_t) e, t), e ~ N(0, I); p = 4 (the code of SimA, arXiv 2509.25003).

    Its evaluations are those of Loss.

    Example:
        A denoiser that predicts its input, at a timestep of sqrt(abar) = 0.6, for z = 2 and e = 1:

        >>> z, e = torch.full((1, 1, 1, 2), 2.0), torch.ones(1, 1, 1, 2)
        >>> evaluations = Evaluations(z, torch.tensor([1.0, 0.36]), lambda x, timesteps: x, lambda purpose: e)
        >>> Epsilon(timesteps=(1,)).vectors(evaluations).flatten()  # 0.6 * 2 + 0.8 * 1
        tensor([2., 2.])
    """

    def vectors(self, evaluations: Evaluations) -> Float[Tensor, "t n c h w"]:
        """The prediction of e_t at each timestep, e_t drawn anew for each."""
        return torch.stack([noise for _, noise in evaluations.diffused_at(self.timesteps).values()])
