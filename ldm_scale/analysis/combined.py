"""One score from the spectra of all attacks and timesteps: a regularised logistic regression."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ldm_scale.analysis.splithalf import Scorer

# Neighbouring bins of influence say nearly the same: a few groups of them keep the features fewer than the samples.
GROUPS = 5


def log_features(spectra: Sequence[Float[np.ndarray, "n _ _"]], groups: int = GROUPS) -> Float[np.ndarray, "n f"]:
    """The log of every attack's spectrum (n, T, B) at every timestep, its bins summed in `groups` of neighbours.

    A zero is raised to the smallest positive value of its feature. No labels are used.
    """
    blocks = []
    for spectrum in spectra:
        bins = spectrum.shape[2]
        count = min(groups, bins)
        starts = np.arange(count) * bins // count
        blocks.append(np.add.reduceat(spectrum.astype(np.float64), starts, axis=2).reshape(len(spectrum), -1))
    sums = np.concatenate(blocks, axis=1)
    floor = np.where(sums > 0, sums, np.inf).min(axis=0)
    return np.log(np.maximum(sums, np.where(np.isfinite(floor), floor, 1.0)))


def classifier(features: int) -> Any:
    """Logistic regression on standardised features, the L2 penalty's C = 1 / features.

    So the log odds of independent features have a prior variance of one however many there are, while what many
    features share is hardly shrunk.
    """
    return make_pipeline(StandardScaler(), LogisticRegression(C=1 / features, max_iter=1000))


def combined_scorer(features: Float[np.ndarray, "n f"], member: Bool[np.ndarray, " n"]) -> Scorer:
    """One candidate, the log odds of a classifier fitted on the choosing half."""

    def score(choose: np.ndarray, report: np.ndarray) -> tuple[int, np.ndarray]:
        model = classifier(features.shape[1]).fit(features[choose], member[choose])
        return 0, model.decision_function(features[report])

    return score
