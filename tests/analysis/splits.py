"""Halvings that a test fixes."""

import numpy as np

from ldm_scale.analysis.splithalf import Scorer, best


def fixed(scores: np.ndarray, member: np.ndarray) -> Scorer:
    """The best of candidates that need no fit."""

    def score(_: int, choose: np.ndarray, report: np.ndarray) -> tuple[int, np.ndarray]:
        pick = best(scores[choose], member[choose])
        return pick, scores[report, pick]

    return score
