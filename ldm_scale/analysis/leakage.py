"""Which latent dimensions leak, and whether the influential ones leak more."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import spearmanr, t

from ldm_scale.analysis.metrics import Roc
from ldm_scale.analysis.results import Estimate
from ldm_scale.analysis.splits import folds

GROUPS = 20


def jackknife(
    vectors_abs: Float[np.ndarray, "n d"], member: Bool[np.ndarray, " n"], seed: int
) -> Float[np.ndarray, "g d"]:
    """Each dimension's own AUROC, that of the score -|S_i|: of all samples, then without each group of them in turn.

    vectors_abs: |S_i| of all dimensions or of some. Up to GROUPS stratified groups: (GROUPS + 1, d). Counts are exact,
    so that equal AUROCs are equal for their ranks.
    """
    groups = min(GROUPS, int(member.sum()), int((~member).sum()))
    group = folds(member, groups, seed)
    subsets = np.stack([group != left for left in range(-1, groups)])
    return np.stack([Roc(-column.astype(np.float64), member).aurocs(subsets) for column in vectors_abs.T], axis=1)


def correlate(influence_mean: Float[np.ndarray, " d"], leaks: Float[np.ndarray, "g d"], confidence: float) -> Estimate:
    """Spearman's correlation, over dimensions, of mean influence and AUROC: the second finding.

    From the AUROCs of `jackknife`, with g = 20 groups: value +- t_{g-1} sqrt((g - 1)^2 / g) sd(leave-one-group-out
    values). A percentile bootstrap adds the AUROCs' noise a second time, which pulls its values towards zero; the noise
    that is there once pulls the value itself towards zero, and the interval is of that value.
    """
    value, *left = (spearmanr(influence_mean, row).statistic for row in leaks)
    groups = len(left)
    half = t.isf((1 - confidence) / 2, groups - 1) * (groups - 1) / np.sqrt(groups) * np.std(left, ddof=1)
    return Estimate(value=value, low=max(value - half, -1), high=min(value + half, 1))
