"""PFAMI as the authors' scripts have it: how much the mean Loss changes when the latent is cropped."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ldm_scale.attacks.base import Evaluations
from ldm_scale.attacks.pfami import PFAMI


def whole_crop(z: Float[Tensor, "n c h w"], share: float) -> Float[Tensor, "n c h w"]:
    """The centre window of floor(share * side) whole dimensions of each side, resized to the latent's own size.

    The window begins at floor((side - its own) / 2); the resizing is bilinear between the centres of dimensions. On a
    small latent several shares have the same window.

    Args:
        z: latents.
        share: of each side that is kept, above 0 and up to 1; at least one dimension is.

    Example:
        >>> whole_crop(torch.tensor([[[[0.0, 4.0, 8.0, 9.0]]]]), 0.6)  # of columns 1 and 2
        tensor([[[[4., 5., 7., 8.]]]])
    """
    sides = z.shape[2:]
    rows, columns = (max(1, int(share * side)) for side in sides)
    top, left = (sides[0] - rows) // 2, (sides[1] - columns) // 2
    window = z[:, :, top : top + rows, left : left + columns]
    return torch.nn.functional.interpolate(window, size=sides, mode="bilinear", align_corners=False)


def mean_loss(errors: Float[Tensor, "t n c h w"]) -> Float[Tensor, " n"]:
    """The mean square over timesteps and dimensions, float64: differences of nearly equal ones are taken of it."""
    return errors.double().square().mean((0, 2, 3, 4))


@dataclass(frozen=True)
class PublishedPFAMI(PFAMI):
    """sum of S^2 = mean over crops of (L(z) - L(crop(z)))^2, L the mean Loss over all t and dimensions; p = 2.

    So the authors of arXiv 2511.20592 run PFAMI (Fu et al. 2023, arXiv 2308.12143): L(x) is the mean over timesteps t
    and dimensions i of (e_i - eps(sqrt(abar_t) x + sqrt(1 - abar_t) e, t)_i)^2, e ~ N(0, I) drawn anew for z and each
    crop, and each t; crops are windows of whole dimensions, see `whole_crop`.

    It is one number a sample, which no mask changes. All S_{t,i} are its root divided by sqrt(D): every mask keeps as
    large a part of it of one sample as of any other, and it is the same at each timestep, so their mean is the number
    itself.

    Example:
        A denoiser that predicts its input, at sqrt(abar) = 0.6, for e = 1 and z = (0, 4, 8, 9), cropped to (4, 5, 7,
        8), whose mean losses are 13.27 and 12.46:

        >>> z, e = torch.tensor([[[[0.0, 4.0, 8.0, 9.0]]]]), torch.ones(1, 1, 1, 4)
        >>> evaluations = Evaluations(z, torch.tensor([1.0, 0.36]), lambda x, timesteps: x, lambda purpose: e)
        >>> PublishedPFAMI(timesteps=(1,), crops=(0.6,)).vectors(evaluations).flatten()  # 0.81 / sqrt(4)
        tensor([0.4050, 0.4050, 0.4050, 0.4050])
    """

    def vectors(self, evaluations: Evaluations) -> Float[Tensor, "t n c h w"]:
        """The same number in every dimension at every timestep."""
        z = evaluations.latents
        own = mean_loss(torch.stack([e - noise for e, noise in evaluations.diffused_at(self.timesteps).values()]))
        changes = torch.stack([own - self._cropped_loss(evaluations, share) for share in self.crops])
        size = (changes.square().mean(0) / z[0].numel()).sqrt().to(z.dtype)
        return size.reshape(-1, 1, 1, 1).expand(len(self.timesteps), *z.shape)

    def _cropped_loss(self, evaluations: Evaluations, share: float) -> Float[Tensor, " n"]:
        crop = whole_crop(evaluations.latents, share)
        draws = torch.stack([evaluations.draw(f"noise {t}, crop {share:g}") for t in self.timesteps])
        pairs = zip(draws, self.timesteps, strict=True)
        noisy = torch.stack([evaluations.diffuse(crop, e, t) for e, t in pairs])
        return mean_loss(draws - evaluations.denoise_each(noisy, self.timesteps))
