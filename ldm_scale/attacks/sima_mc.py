"""SimA-MC: the mean of the denoiser's predictions on the latent with several drawn noises."""

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ldm_scale.attacks.base import AttackOptions, Evaluations


@dataclass(frozen=True)
class SimAMC(AttackOptions):
    """S_t = mean over k of eps(sqrt(abar_t) z + sqrt(1 - abar_t) e_k, t), e_1 ... e_K ~ N(0, I); p = 4: our own.

    SimA (arXiv 2509.25003) takes the prediction at z itself; this takes its mean where the denoiser was trained. The
    authors of SimA report a Monte Carlo variant in 2026, whose exact definition could not be read: this is not theirs.

    e_1 is the draw of Loss and Epsilon, so that one draw gives Epsilon, for the same evaluations.

    Raises:
        ValueError: There is no draw.

    Example:
        A denoiser that predicts its input, at sqrt(abar) = 0.6, for z = 2 and draws of 1 and 3:

        >>> z = torch.full((1, 1, 1, 2), 2.0)
        >>> draw = {"noise 1": torch.ones(1, 1, 1, 2), "noise 1, draw 2": torch.full((1, 1, 1, 2), 3.0)}
        >>> evaluations = Evaluations(z, torch.tensor([1.0, 0.36]), lambda x, timesteps: x, draw.__getitem__)
        >>> SimAMC(timesteps=(1,), draws=2).vectors(evaluations).flatten()  # 0.6 * 2 + 0.8 * (1 + 3) / 2
        tensor([2.8000, 2.8000])
    """

    draws: Annotated[int, Field(description="noise draws at each timestep, each one evaluation")] = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1:
            raise ValueError(f"draws: {self.draws} is not positive")

    def vectors(self, evaluations: Evaluations) -> Float[Tensor, "t n c h w"]:
        """The mean prediction at each timestep, its noises drawn anew for each."""
        total = torch.stack([noise for _, noise in evaluations.diffused_at(self.timesteps).values()])
        for k in range(2, self.draws + 1):
            draws = [evaluations.draw(f"noise {t}, draw {k}") for t in self.timesteps]
            pairs = zip(draws, self.timesteps, strict=True)
            noisy = torch.stack([evaluations.diffuse(evaluations.latents, e, t) for e, t in pairs])
            total = total + evaluations.denoise_each(noisy, self.timesteps)
        return total / self.draws
