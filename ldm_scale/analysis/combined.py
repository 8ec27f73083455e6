"""One score from the spectra of all attacks and timesteps: a logistic regression, drawn to the best single attack."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ldm_scale.analysis.metrics import aurocs

# Neighbouring bins of influence say nearly the same: a few groups of them keep the features fewer than the samples.
GROUPS = 5
# A fit sees at most so many samples. That its weights are estimated costs 1 / (2 samples) nats of log loss a weight
# (Akaike 1974): 0.002 for 200 features.
FITTED = 50_000
# Samples of which a processor's cache holds all that is made of them.
CACHED = 128


def group_sums(spectra: Sequence[Float[np.ndarray, "n _ _"]], groups: int = GROUPS) -> Float[np.ndarray, "n f"]:
    """Every attack's statistic at every timestep, then every spectrum, its bins summed in groups of neighbours.

    Args:
        spectra: one (n, T, B) an attack; T and B may differ between attacks.
        groups: of bins in a spectrum; as many as there are bins if they are fewer.

    Returns:
        f is the sum over attacks of T * (1 + groups).

    >>> group_sums([np.array([[[1.0, 2.0, 3.0, 4.0]]])], groups=2)
    array([[10.,  3.,  7.]])
    """
    blocks = []
    for spectrum in spectra:
        bins = spectrum.shape[2]
        count = min(groups, bins)
        starts = np.arange(count) * bins // count
        blocks.append(np.add.reduceat(spectrum.astype(np.float64), starts, axis=2))
    return np.concatenate([*(b.sum(axis=2) for b in blocks), *(b.reshape(len(b), -1) for b in blocks)], axis=1)


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


@dataclass(frozen=True)
class LogOdds:
    """A fitted classifier: log odds = features @ weights + intercept; higher means member."""

    weights: Float[np.ndarray, " f"]
    intercept: float

    @classmethod
    def fit(
        cls, features: Float[np.ndarray, "h f"], member: Bool[np.ndarray, " h"], singles: int | None = None
    ) -> "LogOdds":
        """Fit on labelled samples a logistic regression with an L2 penalty on standardised features.

        The weight of the best single score has a prior variance of one, and each other weight one of 1 / f, so that
        the log odds of independent features have as much from all of them, however many there are. So few samples
        leave the best single score, and more of them correct it.

        Args:
            features: logs of group sums.
            singles: how many of the features, the first ones, are single scores; by default all. The best one has
                the AUROC furthest from a half on these samples.
        """
        scaler = StandardScaler().fit(features)
        spread = np.full(features.shape[1], features.shape[1] ** -0.5)
        spread[np.abs(aurocs(features[:, :singles], member) - 0.5).argmax()] = 1
        regression = LogisticRegression(max_iter=1000).fit(scaler.transform(features) * spread, member)
        weights = regression.coef_[0] * spread / scaler.scale_
        return cls(weights, float(regression.intercept_[0] - scaler.mean_ @ weights))

    def scores(self, features: Float[np.ndarray, "n f"]) -> Float[np.ndarray, " n"]:
        """The log odds; a sample's does not depend on those beside it, to the last bit."""
        odds = np.empty(len(features))
        for start in range(0, len(odds), CACHED):
            odds[start : start + CACHED] = (features[start : start + CACHED] * self.weights).sum(axis=1)
        return odds + self.intercept


def fitted_rows(half: Bool[np.ndarray, " n"], seed: int, halving: int) -> Int[np.ndarray, " h"]:
    """The rows of a half that its classifier is fitted on: all, or FITTED of them at random.

    Args:
        half: the samples in it.
        halving: its number.

    Returns:
        Numbers of samples, in ascending order.
    """
    rows = np.flatnonzero(half)
    if len(rows) <= FITTED:
        return rows
    return np.sort(np.random.default_rng([seed, halving, 2]).choice(rows, FITTED, replace=False))


def cross_fit(
    features: Float[np.ndarray, "n f"],
    member: Bool[np.ndarray, " n"],
    chosen: Bool[np.ndarray, "r n"],
    seed: int,
    singles: int | None = None,
) -> Float[np.ndarray, "r n"]:
    """Log odds of all samples on each of r halvings, by a classifier fitted on the half that a sample is not in.

    Args:
        features: any that hold no labels.
        chosen: which half a sample is in (`splithalf.choosing`).
        singles: how many of the features, the first ones, are single scores (`LogOdds.fit`).
    """
    odds = np.empty(chosen.shape)
    for halving, one in enumerate(chosen):
        for half in (one, ~one):
            rows = fitted_rows(half, seed, halving)
            odds[halving, ~half] = LogOdds.fit(features[rows], member[rows], singles).scores(features[~half])
    return odds
