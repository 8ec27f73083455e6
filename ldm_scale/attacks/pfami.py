"""PFAMI: how much the Loss changes when the latent is cropped."""

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ldm_scale.attacks.base import AttackOptions, Evaluations, Exponent, Timesteps
from ldm_scale.config.values import Fractions


def centre_crop(z: Float[Tensor, "n c h w"], share: float) -> Float[Tensor, "n c h w"]:
    """The centre window of a latent, magnified to the latent's own size.

    Row i of the h rows is the latent at row (h - 1) / 2 + share * (i - (h - 1) / 2), bilinear between the centres of
    its dimensions, and so are columns. A window may end between dimensions: even a small latent has a crop of its own
    for each share. Every point lies between centres: nothing is padded. Magnifying needs no antialiasing.

    Args:
        z: latents.
        share: of each side that is kept, above 0 and up to 1.

    Example:
        >>> centre_crop(torch.tensor([[[[0.0, 4.0]]]]), 0.5)  # at columns 0.25 and 0.75
        tensor([[[[1., 3.]]]])
    """
    scale = torch.tensor([[share, 0, 0], [0, share, 0]], dtype=z.dtype, device=z.device)
    grid = torch.nn.functional.affine_grid(scale.expand(len(z), 2, 3), list(z.shape), align_corners=False)
    return torch.nn.functional.grid_sample(z, grid, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class PFAMI(AttackOptions):
    """S_{t,i} = root mean square over crops of l_t(z)_i - l_t(crop(z))_i; p = 2 (Fu et al. 2023, arXiv 2308.12143).

    l_t(x)_i = (e_i - eps(sqrt(abar_t) x + sqrt(1 - abar_t) e, t)_i)^2 is the Loss by dimension, with the same
    e ~ N(0, I) for z and its crops; crops are of the latent, `crops` the shares of its sides that they keep. So the
    sum of S^2 over dimensions is the squared fluctuation by dimension, averaged over crops. The paper's attack is its
    mean over all timesteps, which is taken of the rows when the audit is reduced.

    Raises:
        ValueError: There is no crop, or a share is outside (0, 1].

    Example:
        A denoiser that predicts its input, at sqrt(abar) = 0.6, for e = 1 and z = (0, 4), cropped to (1, 3):

        >>> z, e = torch.tensor([[[[0.0, 4.0]]]]), torch.ones(1, 1, 1, 2)
        >>> evaluations = Evaluations(z, torch.tensor([1.0, 0.36]), lambda x, timesteps: x, lambda purpose: e)
        >>> PFAMI(timesteps=(1,), crops=(0.5,)).vectors(evaluations).flatten()  # |0.04 - 0.16|, |4.84 - 2.56|
        tensor([0.1200, 2.2800])
    """

    timesteps: Timesteps = tuple(range(0, 500, 50))
    p: Exponent = 2.0
    crops: Annotated[Fractions, Field(description="shares of the latent's sides that the crops keep")] = tuple(
        round(0.95 - 0.25 * number / 9, 4) for number in range(10)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.crops:
            raise ValueError("crops: give at least one")
        if bad := [share for share in self.crops if not 0 < share <= 1]:
            raise ValueError(f"crops: {bad[0]} is not a share of the side")

    def vectors(self, evaluations: Evaluations) -> Float[Tensor, "t n c h w"]:
        """The root mean square fluctuation at each timestep."""
        crops = [centre_crop(evaluations.latents, share) for share in self.crops]
        fluctuations = []
        for t, (e, noise) in evaluations.diffused_at(self.timesteps).items():
            noisy = torch.stack([evaluations.diffuse(crop, e, t) for crop in crops])
            losses = (e - evaluations.denoise_each(noisy, [t] * len(crops))) ** 2
            fluctuations.append((((e - noise) ** 2 - losses) ** 2).mean(0).sqrt())
        return torch.stack(fluctuations)
