"""The distortion of every sample: as it was measured, or estimated from the sum of the sample's influences."""

import numpy as np
from jaxtyping import Float
from scipy.stats import spearmanr

from ldm_scale.analysis.results import DistortionEstimate

# Measured samples from which a line is fitted.
FEWEST = 8


def distortion_bound(influence_mean: Float[np.ndarray, " n"], dimensions: int) -> Float[np.ndarray, " n"]:
    """The sum of the influences, sum_i c_i >= log sqrt(det G): Hadamard's inequality, det G <= prod_i G_ii.

    It is the distortion itself if the columns of J are orthogonal.

    Args:
        influence_mean: mean of the D influences of each sample, nats.
        dimensions: D.

    >>> distortion_bound(np.array([0.5, -1.0]), dimensions=4)
    array([ 2., -4.])
    """
    return dimensions * influence_mean


def left_out(x: Float[np.ndarray, " m"], residual: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """How far each point is above the least-squares line through the others, from one fit to all of them.

    e_i / (1 - h_i), of residual e_i and leverage h_i = 1 / m + (x_i - mean x)^2 / sum_j (x_j - mean x)^2 (Allen 1974).

    Args:
        x: of the points.
        residual: how far they are above the line through all of them.

    >>> left_out(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.3, -0.6, 0.0, 0.9])).round(9)[-1]
    np.float64(3.0)
    """
    around = x - x.mean()
    leverage = 1 / len(x) + around**2 / (around @ around)
    return residual / (1 - leverage)


def complete_distortion(
    measured: Float[np.ndarray, " n"], bound: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], DistortionEstimate]:
    """The distortion of all samples, and how far to trust the estimated ones.

    Samples without a measured distortion get that of the least-squares line through the measured ones over their bound.
    If fewer than FEWEST are measured, there is no line: the bound stands for all samples.

    Args:
        measured: log sqrt(det G) in nats; NaN if it was not measured.
        bound: of the same samples, as from `distortion_bound`.
    """
    known = np.isfinite(measured)
    if known.sum() < FEWEST:
        nothing = {"correlation": np.nan, "residual": np.nan, "spread": np.nan}
        return bound, DistortionEstimate(samples=len(bound), slope=1, intercept=0, **nothing)
    x, y = bound[known], measured[known].astype(np.float64)
    slope, intercept = np.polyfit(x, y, 1)
    line = slope * bound + intercept
    error = left_out(x, y - line[known])
    estimate = DistortionEstimate(
        samples=int((~known).sum()),
        slope=slope,
        intercept=intercept,
        correlation=spearmanr(y - error, y).statistic,
        residual=np.sqrt(np.square(error).mean()),
        spread=y.std(),
    )
    return np.where(known, measured, line), estimate
