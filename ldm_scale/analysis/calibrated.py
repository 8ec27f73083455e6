"""Geometry-calibrated scores: the log statistic minus what the sample's geometry predicts."""

import numpy as np
from jaxtyping import Bool, Float
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ldm_scale.analysis.splithalf import Scorer, best
from ldm_scale.analysis.splits import folds


def geometry_features(
    influence_mean: Float[np.ndarray, " n"], influence_sd: Float[np.ndarray, " n"], distortion: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n f"]:
    """Mean and standard deviation of c_i, and the distortion where every sample has one: (n, 2) or (n, 3)."""
    measured = [distortion] if np.isfinite(distortion).all() else []
    return np.stack([influence_mean, influence_sd, *measured], axis=1).astype(np.float64)


def calibrate(
    known_logs: Float[np.ndarray, "h k"],
    known_features: Float[np.ndarray, "h f"],
    logs: Float[np.ndarray, "n k"],
    features: Float[np.ndarray, "n f"],
) -> Float[np.ndarray, "n k"]:
    """Minus the residual, prediction - log statistic: higher means member.

    The prediction is a ridge regression on standardised features, fitted on known held-out samples (cf. quantile
    regression of Tang et al., ICML 2024).
    """
    model = make_pipeline(StandardScaler(), Ridge()).fit(known_features, known_logs)
    return model.predict(features).reshape(logs.shape) - logs


def cross_calibrate(
    logs: Float[np.ndarray, "n k"], features: Float[np.ndarray, "n f"], member: Bool[np.ndarray, " n"], seed: int
) -> Float[np.ndarray, "n k"]:
    """The scores of each of two folds by a regression on the other's held-out samples."""
    fold = folds(member, 2, seed)
    scores = np.empty(logs.shape)
    for part in range(2):
        inside = fold == part
        known = ~inside & ~member
        scores[inside] = calibrate(logs[known], features[known], logs[inside], features[inside])
    return scores


def calibrated_scorer(
    logs: Float[np.ndarray, "n k"], features: Float[np.ndarray, "n f"], member: Bool[np.ndarray, " n"], seed: int
) -> Scorer:
    """Candidates, one a timestep, whose regression never sees a sample that it scores.

    The reported half is scored by the choosing half's held-out samples; to choose a timestep, the choosing half's two
    folds by each other's.
    """

    def score(_: int, choose: np.ndarray, report: np.ndarray) -> tuple[int, np.ndarray]:
        pick = best(cross_calibrate(logs[choose], features[choose], member[choose], seed), member[choose])
        known, step = choose[~member[choose]], slice(pick, pick + 1)
        return pick, calibrate(logs[known, step], features[known], logs[report, step], features[report])[:, 0]

    return score
