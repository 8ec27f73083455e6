"""Pooled influence: estimates from few probes, smoothed by what a calibration set says of all samples."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# Side of the window of latent positions from which one is estimated.
WINDOW = 5


def noise_variance(probes: int) -> float:
    """Variance of a K-probe influence around the true one: 0.25 * polygamma(1, K/2), that of half a log chi^2_K.

    Args:
        probes: K, at least 1.

    Example:
        >>> print(f"{noise_variance(2):.4f} {noise_variance(8):.4f}")  # pi^2 / 24 at K = 2
        0.4112 0.0710
    """
    return 0.25 * torch.polygamma(1, torch.tensor(probes / 2, dtype=torch.float64)).item()


def mean_profile(estimates: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """The mean over samples of their influences less each sample's own mean; its mean over dimensions is 0.

    >>> mean_profile(torch.tensor([[1.0, 3.0], [5.0, 9.0]]))
    tensor([-1.5000,  1.5000])
    """
    return (estimates - estimates.mean(1, keepdim=True)).mean(0)


def profile_variance(estimates: Float[Tensor, "n d"], probes: int) -> float:
    """Variance of the true influences around their mean profile: the observed one minus that of the probes' noise.

    Args:
        estimates: influences of n samples without bias, each from K probes.
        probes: K.

    Example:
        Two samples that differ by their level alone:

        >>> profile_variance(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), probes=8)
        0.0
    """
    observed = (estimates - estimates.mean(1, keepdim=True)).var(0).mean().item()
    return max(observed - noise_variance(probes), 0.0)


@dataclass(frozen=True)
class Profile:
    """What few probes of a sample are completed with.

    Attributes:
        mean: mu_i of the influences less their sample's mean, as from `mean_profile`.
        filter: linear, from what departs from the profile in a window of the noisy estimates to what truly does at its
            centre; a channel in turn.
    """

    mean: Float[Tensor, "c h w"]
    filter: Float[Tensor, "c c s s"]

    @classmethod
    def of(cls, first: Float[Tensor, "n c h w"], second: Float[Tensor, "n c h w"], probes: int) -> "Profile":
        """The profile of a calibration set, from two estimates of each sample that do not share a probe.

        The filter is the least-squares predictor of one estimate from the other, both ways. As their noises are
        independent, it tends to the best linear one of the true influences, Wiener's (Lehtinen et al. 2018,
        Noise2Noise). A ridge, by which each of its m coefficients is about 1 / m before anything is seen, keeps it
        small if samples are few.

        Args:
            first: influences without bias, each from K probes.
            second: likewise.
            probes: K.

        Raises:
            ValueError: There are fewer than two samples.
        """
        if len(first) < 2:
            raise ValueError("a profile needs at least two samples")
        shape = first.shape[1:]
        both = torch.stack([first, second]).double().flatten(2)
        mean = mean_profile(both.mean(0))
        departing = (both - both.mean(2, keepdim=True) - mean).unflatten(2, shape)
        m = shape[0] * WINDOW**2
        # Sums over windows w of w w^T and of w times what the other estimate has at the centre.
        moments = m**2 * noise_variance(probes) * torch.eye(m, dtype=both.dtype, device=both.device)
        products = torch.zeros(m, shape[0], dtype=both.dtype, device=both.device)
        for seen, other in zip(departing.transpose(0, 1), departing.flip(0).transpose(0, 1), strict=True):
            # The m values around each latent position, 0 beyond the edge: (samples, positions, m).
            around = F.unfold(seen, WINDOW, padding=WINDOW // 2).mT
            moments += (around.mT @ around).sum(0)
            products += (around.mT @ other.flatten(2).mT).sum(0)
        fitted = torch.linalg.solve(moments, products).mT.unflatten(1, (shape[0], WINDOW, WINDOW))
        return cls(mean.unflatten(0, shape).float(), fitted.float())


def pooled_influence(estimates: Float[Tensor, "n d"], profile: Profile) -> Float[Tensor, "n d"]:
    """m + mu_i + f_i - mean f with f = filter * (c - m - mu): what departs from the profile, smoothed.

    m is the sample's own mean, and stays it. Influence departs from the profile alike in neighbouring latent
    dimensions, as it follows the image; the probes' noise does so much less. A row depends on its own sample and on the
    profile only.

    Args:
        estimates: c_i without bias, each from as many probes as those that the profile was fitted to.
        profile: of a calibration set, as from `Profile.of`.

    Example:
        With a filter that keeps half of a dimension itself and nothing of its neighbours:

        >>> half = torch.zeros(1, 1, WINDOW, WINDOW)
        >>> half[0, 0, WINDOW // 2, WINDOW // 2] = 0.5
        >>> profile = Profile(torch.tensor([[[-1.0, 1.0]]]), half)
        >>> pooled_influence(torch.tensor([[2.0, 8.0]]), profile)  # 5 -+ (1 + 2 / 2)
        tensor([[3., 7.]])
    """
    # In double precision, so that a row does not depend on how a device adds up a batch's.
    mean, kernel = (values.to(estimates.device).double() for values in (profile.mean, profile.filter))
    own = estimates.double().mean(1, keepdim=True)
    departing = (estimates - own - mean.flatten()).unflatten(1, mean.shape)
    smoothed = F.conv2d(departing, kernel, padding=WINDOW // 2).flatten(1)
    return (own + mean.flatten() + smoothed - smoothed.mean(1, keepdim=True)).float()
