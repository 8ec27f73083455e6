"""An attack: its fields are its options, its vectors are its statistic of each dimension at each timestep."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_scale.attacks.base import AttackOptions, Evaluations


@dataclass(frozen=True)
class Residual(AttackOptions):
    """S_t = z - weight * eps(z, t); eps(z, t) is shared with SimA."""

    weight: float = 1.0

    def vectors(self, evaluations: Evaluations) -> Tensor:
        """S_t at each timestep, (t, n, c, h, w)."""
        noises = evaluations.noises_at("z", dict.fromkeys(self.timesteps, evaluations.latents))
        return torch.stack([evaluations.latents - self.weight * noises[t] for t in self.timesteps])
