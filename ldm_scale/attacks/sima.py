"""SimA: the denoiser's prediction on the clean latent."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ldm_scale.attacks.base import AttackOptions, Evaluations


@dataclass(frozen=True)
class SimA(AttackOptions):
    """S_t = eps(z, t), no noise added to z; p = 4, t = 0, 10, ..., 290 for models from scratch (arXiv 2509.25003)."""

    def vectors(self, evaluations: Evaluations) -> Float[Tensor, "t n c h w"]:
        """eps(z, t) at each timestep."""
        noises = evaluations.noises_at("z", dict.fromkeys(self.timesteps, evaluations.latents))
        return torch.stack([*noises.values()])
