"""SimA: the denoiser's prediction on the clean latent."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ldm_scale.attacks.base import AttackOptions, Evaluations


@dataclass(frozen=True)
class SimA(AttackOptions):
    """S_t = eps(z, t), no noise added to z; p = 4, t = 0, 10, ..., 290 for models from scratch (arXiv 2509.25003).

    Example:
        A denoiser that predicts its input, for z = 2:

        >>> z, e = torch.full((1, 1, 1, 2), 2.0), torch.ones(1, 1, 1, 2)
        >>> evaluations = Evaluations(z, torch.tensor([1.0, 0.36]), lambda x, timesteps: x, lambda purpose: e)
        >>> SimA(timesteps=(1,)).vectors(evaluations).flatten()
        tensor([2., 2.])
    """

    def vectors(self, evaluations: Evaluations) -> Float[Tensor, "t n c h w"]:
        """eps(z, t) at each timestep."""
        noises = evaluations.noises_at("z", dict.fromkeys(self.timesteps, evaluations.latents))
        return torch.stack([*noises.values()])
