"""PIAN: PIA with its noise scaled to the mean size of a normal one."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ldm_scale.attacks.base import Evaluations
from ldm_scale.attacks.pia import PIA, first_noise, residuals


@dataclass(frozen=True)
class PIAN(PIA):
    """PIA with e0 scaled so that mean |e0| = sqrt(2 / pi) in each sample, as of N(0, I) (Kong et al., ICLR 2024).

    arXiv 2305.18355.

    Example:
        A denoiser that predicts its input, at a timestep of sqrt(abar) = 0.6, for z = 2 and so e0 = 0.7979:

        >>> import torch
        >>> z, e = torch.full((1, 1, 1, 2), 2.0), torch.ones(1, 1, 1, 2)
        >>> evaluations = Evaluations(z, torch.tensor([1.0, 0.36]), lambda x, timesteps: x, lambda purpose: e)
        >>> PIAN(timesteps=(1,)).vectors(evaluations).flatten()  # 0.7979 - (0.6 * 2 + 0.8 * 0.7979)
        tensor([-1.0404, -1.0404])
    """

    def vectors(self, evaluations: Evaluations) -> Float[Tensor, "t n c h w"]:
        """The scaled e0 minus the prediction of it at each timestep."""
        e0 = first_noise(evaluations)
        scaled = e0 * (math.sqrt(2 / math.pi) / e0.abs().mean((1, 2, 3), keepdim=True))
        return residuals(evaluations, "scaled e0", scaled, self.timesteps)
