"""Pooled influence: the estimates from few probes, shrunk towards the mean profile of a calibration set."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def noise_variance(probes: int) -> float:
    """Variance of a K-probe log influence: 0.25 * polygamma(1, K/2), as K * estimate / G_ii ~ chi^2_K."""
    return 0.25 * torch.polygamma(1, torch.tensor(probes / 2, dtype=torch.float64)).item()


@dataclass(frozen=True)
class Profile:
    """The prior of log influences without their sample's mean: mean mu_i, and variance of the true c_i around it."""

    mean: Float[Tensor, " d"]
    variance: float

    @classmethod
    def of(cls, estimates: Float[Tensor, "n d"], probes: int) -> "Profile":
        """From the bias-corrected K-probe log influences of n >= 2 samples: observed variance minus the noise's."""
        if len(estimates) < 2:
            raise ValueError("a profile needs at least two samples")
        profiles = estimates - estimates.mean(1, keepdim=True)
        observed = profiles.var(0).mean().item()
        return cls(profiles.mean(0), max(observed - noise_variance(probes), 0.0))


def pooled_influence(estimates: Float[Tensor, "n d"], profile: Profile, probes: int) -> Float[Tensor, "n d"]:
    """own mean + mu_i + s * (c_i - own mean - mu_i), s = variance / (variance + noise): empirical Bayes over samples.

    The posterior mean of a normal c_i under the profile (Efron and Morris 1973); a row depends on its own sample and
    on the profile only.
    """
    share = profile.variance / (profile.variance + noise_variance(probes))
    own, mean = estimates.mean(1, keepdim=True), profile.mean.to(estimates.device)
    return own + mean + share * (estimates - own - mean)
