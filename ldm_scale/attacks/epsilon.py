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
    """

    def vectors(self, evaluations: Evaluations) -> Float[Tensor, "t n c h w"]:
        """The prediction of e_t at each timestep, e_t drawn anew for each."""
        return torch.stack([noise for _, noise in evaluations.diffused_at(self.timesteps).values()])
