"""Loss: the error of the denoiser's prediction of a drawn noise."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ldm_scale.attacks.base import AttackOptions, Evaluations


@dataclass(frozen=True)
class Loss(AttackOptions):
    """S_t = e - eps(sqrt(abar_t) z + sqrt(1 - abar_t) e, t), e ~ N(0, I) (Matsumoto et al. 2023, arXiv 2302.03262).

    p = 4 as in SimA's comparison (arXiv 2509.25003); the original, p = 2, is the training loss itself.

    Example:
        A denoiser that predicts its input, at a timestep of sqrt(abar) = 0.6, for z = 2 and e = 1:

        >>> z, e = torch.full((1, 1, 1, 2), 2.0), torch.ones(1, 1, 1, 2)
        >>> evaluations = Evaluations(z, torch.tensor([1.0, 0.36]), lambda x, timesteps: x, lambda purpose: e)
        >>> Loss(timesteps=(1,)).vectors(evaluations).flatten()  # 1 - (0.6 * 2 + 0.8 * 1)
        tensor([-1., -1.])
    """

    def vectors(self, evaluations: Evaluations) -> Float[Tensor, "t n c h w"]:
        """e_t minus the prediction of it at each timestep, e_t drawn anew for each."""
        return torch.stack([e - noise for e, noise in evaluations.diffused_at(self.timesteps).values()])
