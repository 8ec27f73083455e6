"""Which latent dimensions leak, and whether the influential ones leak more."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import spearmanr, t

from ldm_scale.analysis.delong import wins
from ldm_scale.analysis.metrics import BLOCK, aurocs
from ldm_scale.analysis.results import Estimate
from ldm_scale.analysis.splits import folds

GROUPS = 20


def dimension_aurocs(vectors_abs: Float[np.ndarray, "n d"], member: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " d"]:
    """Each dimension's own AUROC: that of the score -|S_i|, from |S_i| (n, d)."""
    return aurocs(-vectors_abs, member)


def correlate(
    influence_mean: Float[np.ndarray, " d"],
    vectors_abs: Float[np.ndarray, "n d"],
    member: Bool[np.ndarray, " n"],
    confidence: float,
    seed: int,
) -> Estimate:
    """Spearman's correlation, over dimensions, of mean influence and AUROC: the second finding.

    A stratified jackknife of g = 20 groups of samples: value +- t_{g-1} sqrt((g - 1)^2 / g) sd(leave-one-group-out
    values). A percentile bootstrap adds the AUROCs' noise a second time, which pulls its values towards zero; the noise
    that is there once pulls the value itself towards zero, and the interval is of that value.
    """
    value = spearmanr(influence_mean, dimension_aurocs(vectors_abs, member)).statistic
    groups = min(GROUPS, int(member.sum()), int((~member).sum()))
    group = folds(member, groups, seed)
    width = max(1, BLOCK // len(member))
    starts = range(0, vectors_abs.shape[1], width)
    left = np.concatenate([_without_each(-vectors_abs[:, s : s + width], member, group) for s in starts], axis=1)
    values = [spearmanr(influence_mean, row).statistic for row in left]
    half = t.isf((1 - confidence) / 2, groups - 1) * (groups - 1) / np.sqrt(groups) * np.std(values, ddof=1)
    return Estimate(value=value, low=max(value - half, -1), high=min(value + half, 1))


def _without_each(
    scores: Float[np.ndarray, "n d"], member: Bool[np.ndarray, " n"], group: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "g d"]:
    """The AUROCs without each group of samples, from one ranking of all: ordered pairs are counted out, not again.

    Pairs left = those of the members outside the group - those of the group's held-out samples with them.
    """
    ours, theirs = wins(scores, member)
    left = []
    for part in range(group.max() + 1):
        inside = group == part
        m, h = int((inside & member).sum()), int((inside & ~member).sum())
        within = wins(scores[inside], member[inside])[0].sum(axis=0)
        # Counts stay exact, so that equal AUROCs stay equal for their ranks.
        pairs = ours[~inside[member]].sum(axis=0) - (theirs[inside[~member]].sum(axis=0) - within)
        left.append(pairs / ((len(ours) - m) * (len(theirs) - h)))
    return np.stack(left)
