"""One score from the spectra of all attacks and timesteps: a regularised logistic regression."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

# Neighbouring bins of influence say nearly the same: a few groups of them keep the features fewer than the samples.
GROUPS = 5
# A fit sees at most so many samples. That its weights are estimated costs 1 / (2 samples) nats of log loss a weight
# (Akaike 1974): 0.002 for 200 features.
FITTED = 50_000


def group_sums(spectra: Sequence[Float[np.ndarray, "n _ _"]], groups: int = GROUPS) -> Float[np.ndarray, "n f"]:
    """Every attack's spectrum at every timestep, its bins summed in groups of neighbours.

    Args:
        spectra: one (n, T, B) an attack; T and B may differ between attacks.
        groups: of bins in a spectrum; as many as there are bins if they are fewer.

    Returns:
        f is the sum over attacks of T * groups.

    >>> group_sums([np.array([[[1.0, 2.0, 3.0, 4.0]]])], groups=2)
    array([[3., 7.]])
    """
    blocks = []
    for spectrum in spectra:
        bins = spectrum.shape[2]
        count = min(groups, bins)
        starts = np.arange(count) * bins // count
        blocks.append(np.add.reduceat(spectrum.astype(np.float64), starts, axis=2).reshape(len(spectrum), -1))
    return np.concatenate(blocks, axis=1)


def least_positive(sums: Float[np.ndarray, "n f"]) -> Float[np.ndarray, " f"]:
    """The smallest positive value of each feature, infinity if there is none; parts merge by the minimum.

    >>> least_positive(np.array([[0.0, 0.0], [2.0, 0.0], [0.5, 0.0]]))
    array([0.5, inf])
    """
    return np.where(sums > 0, sums, np.inf).min(axis=0)


def log_features(sums: Float[np.ndarray, "n f"], floor: Float[np.ndarray, " f"]) -> Float[np.ndarray, "n f"]:
    """The log of group sums, a zero raised to the smallest positive value of its feature. No labels are used.

    Args:
        sums: from `group_sums`, at least 0.
        floor: from `least_positive`, over all samples; 1 takes the place of infinity.
    """
    return np.log(np.maximum(sums, np.where(np.isfinite(floor), floor, 1.0)))


def classifier(features: int) -> Any:
    """Logistic regression on so many standardised features, with an L2 penalty of C = 1 / features.

    So the log odds of independent features have a prior variance of one however many there are, while what many
    features share is hardly shrunk.
    """
    return make_pipeline(StandardScaler(), LogisticRegression(C=1 / features, max_iter=1000))


@dataclass(frozen=True)
class LogOdds:
    """A fitted classifier: log odds = features @ weights + intercept; higher means member."""

    weights: Float[np.ndarray, " f"]
    intercept: float

    @classmethod
    def fit(cls, features: Float[np.ndarray, "h f"], member: Bool[np.ndarray, " h"]) -> "LogOdds":
        """Fit on labelled samples: log features, and who is a member."""
        scaler, regression = (step for _, step in classifier(features.shape[1]).fit(features, member).steps)
        weights = regression.coef_[0] / scaler.scale_
        return cls(weights, float(regression.intercept_[0] - scaler.mean_ @ weights))

    def scores(self, features: Float[np.ndarray, "n f"]) -> Float[np.ndarray, " n"]:
        """The log odds; a sample's does not depend on those beside it, to the last bit."""
        return (features * self.weights).sum(axis=1) + self.intercept


def fitted_rows(half: Bool[np.ndarray, " n"], seed: int, halving: int) -> Int[np.ndarray, " h"]:
    """The rows of a half that its classifier is fitted on: all, or FITTED of them at random.

    Args:
        half: the samples in it.
        seed: of the analysis.
        halving: its number.

    Returns:
        Numbers of samples, in ascending order.
    """
    rows = np.flatnonzero(half)
    if len(rows) <= FITTED:
        return rows
    return np.sort(np.random.default_rng([seed, halving, 2]).choice(rows, FITTED, replace=False))


def cross_fit(
    features: Float[np.ndarray, "n f"], member: Bool[np.ndarray, " n"], chosen: Bool[np.ndarray, "r n"], seed: int
) -> Float[np.ndarray, "r n"]:
    """Log odds of all samples on each of r halvings, by a classifier fitted on the half that a sample is not in.

    Args:
        features: any that hold no labels.
        member: who is a member.
        chosen: which half a sample is in (`splithalf.choosing`).
        seed: of the analysis.
    """
    odds = np.empty(chosen.shape)
    for halving, one in enumerate(chosen):
        for half in (one, ~one):
            rows = fitted_rows(half, seed, halving)
            odds[halving, ~half] = LogOdds.fit(features[rows], member[rows]).scores(features[~half])
    return odds
