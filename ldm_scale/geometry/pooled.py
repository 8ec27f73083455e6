"""Pooled influence: the estimates from few probes, shrunk towards the mean profile of a calibration set."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def noise_variance(probes: int) -> float:
    """Variance of a K-probe influence around the true one: 0.25 * polygamma(1, K/2), that of half a log chi^2_K.

    Args:
        probes: K, at least 1.

    Example:
        >>> print(f"{noise_variance(2):.4f} {noise_variance(8):.4f}")  # pi^2 / 24 at K = 2
        0.4112 0.0710
    """
    return 0.25 * torch.polygamma(1, torch.tensor(probes / 2, dtype=torch.float64)).item()


@dataclass(frozen=True)
class Profile:
    """The prior of influences less their sample's mean: their mean mu_i, and the variance of the true ones around it.

    Attributes:
        mean: mu_i; its mean over dimensions is 0.
        variance: one number for all dimensions, 0 or more.
    """

    mean: Float[Tensor, " d"]
    variance: float

    @classmethod
    def of(cls, estimates: Float[Tensor, "n d"], probes: int) -> "Profile":
        """The profile of a calibration set: the variance is the observed one minus that of the probes' noise.

        Args:
            estimates: influences of its samples without bias, each from K probes.
            probes: K.

        Raises:
            ValueError: There are fewer than two samples.

        Example:
            Two samples that differ by their level alone:

            >>> Profile.of(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), probes=8)
            Profile(mean=tensor([-1.,  1.]), variance=0.0)
        """
        if len(estimates) < 2:
            raise ValueError("a profile needs at least two samples")
        profiles = estimates - estimates.mean(1, keepdim=True)
        observed = profiles.var(0).mean().item()
        return cls(profiles.mean(0), max(observed - noise_variance(probes), 0.0))


def pooled_influence(estimates: Float[Tensor, "n d"], profile: Profile, probes: int) -> Float[Tensor, "n d"]:
    """Influences shrunk towards the profile: m + mu_i + s * (c_i - m - mu_i), s = variance / (variance + noise).

    m is the sample's own mean, noise the `noise_variance`. This is the posterior mean of a normal c_i under the
    profile: empirical Bayes over samples (Efron and Morris 1973). A row depends on its own sample and on the profile
    only.

    Args:
        estimates: c_i without bias, each from K probes.
        profile: of a calibration set, as from `Profile.of`.
        probes: K.

    Example:
        With a variance as large as the noise's, half of what departs from the profile is kept:

        >>> profile = Profile(torch.tensor([-1.0, 1.0]), variance=noise_variance(8))
        >>> pooled_influence(torch.tensor([[2.0, 8.0]]), profile, probes=8)  # 5 -+ (1 + 2 / 2)
        tensor([[3., 7.]])
    """
    share = profile.variance / (profile.variance + noise_variance(probes))
    own, mean = estimates.mean(1, keepdim=True), profile.mean.to(estimates.device)
    return own + mean + share * (estimates - own - mean)
