"""AUROCs of several scores of the same samples with their covariance, in closed form."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import norm

from ldm_scale.analysis.ranks import Ranks


@dataclass(frozen=True)
class Aurocs:
    """AUROCs (k,) and their covariance (k, k)."""

    values: Float[np.ndarray, " k"]
    covariance: Float[np.ndarray, "k k"]

    def intervals(self, confidence: float) -> Float[np.ndarray, "k 2"]:
        """Normal intervals (low, high) of this confidence in (0, 1), cut off at 0 and 1."""
        half = norm.isf((1 - confidence) / 2) * np.sqrt(np.diag(self.covariance))
        return np.clip(np.stack([self.values - half, self.values + half], axis=1), 0, 1)

    def difference(self, i: int, j: int, confidence: float) -> tuple[float, float, float]:
        """AUROC i minus AUROC j as (value, low, high).

        The variance is var_i + var_j - 2 cov_ij: the interval is narrow if the two scores are alike.

        Args:
            i: number of a score.
            j: number of another.
        """
        value = float(self.values[i] - self.values[j])
        variance = self.covariance[i, i] + self.covariance[j, j] - 2 * self.covariance[i, j]
        half = float(norm.isf((1 - confidence) / 2) * np.sqrt(max(variance, 0.0)))
        return value, value - half, value + half


def delong(scores: Float[np.ndarray, "n k"], member: Bool[np.ndarray, " n"]) -> Aurocs:
    """The AUROC of each score, and cov = cov(members' placements) / m + cov(held-out placements) / h.

    A placement is the share of the other side won or lost to (DeLong, DeLong & Clarke-Pearson, Biometrics 1988).

    Args:
        member: who is a member; at least two samples of each side.

    >>> found = delong(np.array([[3.0], [1.0], [1.0], [2.0]]), np.array([True, True, False, False]))
    >>> found.values, found.covariance  # placements 1 and 1/4, 3/4 and 1/2: (9/32 + 1/32) / 2
    (array([0.625]), array([[0.15625]]))
    """
    wins = zip(*(Ranks(column, member).wins() for column in scores.T), strict=True)
    ours, theirs = (np.stack(side, axis=1) for side in wins)
    sides = ours / len(theirs), theirs / len(ours)
    covariance = sum(np.atleast_2d(np.cov(side, rowvar=False)) / len(side) for side in sides)
    return Aurocs(sides[0].mean(axis=0), np.asarray(covariance))
