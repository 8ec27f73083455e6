"""Geometry-adjusted scores: what a sample's geometry predicts of the log statistic, minus the log statistic."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ldm_scale.analysis.folds import folds
from ldm_scale.analysis.scores import log_statistics
from ldm_scale.analysis.splithalf import Scorer, best


def geometry_features(
    influence_mean: Float[np.ndarray, " n"], influence_sd: Float[np.ndarray, " n"], distortion: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n f"]:
    """What the regression knows of each sample: mean and standard deviation of its c_i, and its distortion.

    Args:
        influence_mean: nats, finite.
        influence_sd: nats, finite.
        distortion: nats; NaN if it was not measured.

    Returns:
        f = 3 features if every sample has a distortion, else the first f = 2.

    >>> mean, sd = np.array([-6.0, -5.0]), np.array([1.0, 2.0])
    >>> geometry_features(mean, sd, np.array([90.0, np.nan]))
    array([[-6.,  1.],
           [-5.,  2.]])
    """
    measured = [distortion] if np.isfinite(distortion).all() else []
    return np.stack([influence_mean, influence_sd, *measured], axis=1).astype(np.float64)


def adjust(
    known_logs: Float[np.ndarray, "h k"],
    known_features: Float[np.ndarray, "h f"],
    logs: Float[np.ndarray, "n k"],
    features: Float[np.ndarray, "n f"],
) -> Float[np.ndarray, "n k"]:
    """Minus the residual: score = prediction - log statistic, higher means member.

    The prediction is a ridge regression (penalty 1) on standardised features. Compare the quantile regression of Tang
    et al., "Membership Inference Attacks on Diffusion Models via Quantile Regression", ICML 2024.

    Args:
        known_logs: log statistics of h known held-out samples, which the regression is fitted on; k scores each.
        known_features: their geometry.
        logs: log statistics of the samples to score.
        features: their geometry.

    >>> geometry = np.array([[-1.0], [0.0], [1.0]])
    >>> adjust(geometry * 4, geometry, np.array([[1.0]]), np.array([[1.0]])).round(3)  # 4 * 3 / (3 + 1) - 1
    array([[2.]])
    """
    model = make_pipeline(StandardScaler(), Ridge()).fit(known_features, known_logs)
    return model.predict(features).reshape(logs.shape) - logs


def cross_adjust(
    logs: Float[np.ndarray, "n k"], features: Float[np.ndarray, "n f"], member: Bool[np.ndarray, " n"], seed: int
) -> Float[np.ndarray, "n k"]:
    """The scores of each of two folds, by a regression on the held-out samples of the other fold.

    Args:
        logs: log statistics, k scores a sample.
        features: the samples' geometry.
    """
    fold = folds(member, 2, seed)
    scores = np.empty(logs.shape)
    for part in range(2):
        inside = fold == part
        known = ~inside & ~member
        scores[inside] = adjust(logs[known], features[known], logs[inside], features[inside])
    return scores


def adjusted_scorer(
    scores: Sequence[Float[np.ndarray, " n"]],
    features: Float[np.ndarray, "n f"],
    member: Bool[np.ndarray, " n"],
    seed: int,
) -> Scorer:
    """Candidates, one a timestep, whose regression never sees a sample that it scores.

    The reported half is scored by a fit on the choosing half's held-out samples. To choose a timestep, the two folds of
    the choosing half are scored by a fit on each other's.

    Args:
        scores: minus the statistic at each timestep, below 0.
        features: the samples' geometry.
    """

    def logs(steps: Sequence[int], rows: np.ndarray) -> np.ndarray:
        found = np.empty((len(rows), len(steps)))
        for step, column in zip(steps, found.T, strict=True):
            column[:] = log_statistics(scores[step][rows])
        return found

    def score(_: int, choose: np.ndarray, report: np.ndarray) -> tuple[int, np.ndarray]:
        every = logs(range(len(scores)), choose)
        pick = best(cross_adjust(every, features[choose], member[choose], seed), member[choose])
        heldout = ~member[choose]
        known = choose[heldout]
        adjusted = adjust(every[heldout, pick : pick + 1], features[known], logs([pick], report), features[report])
        return pick, adjusted[:, 0]

    return score
