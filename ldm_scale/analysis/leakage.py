"""Which latent dimensions leak, and whether the influential ones leak more."""

import numpy as np
from jaxtyping import Bool, Float, Float16, Int
from scipy.stats import spearmanr, t

from ldm_scale.analysis.folds import folds, some_of_each
from ldm_scale.analysis.results import Estimate

GROUPS = 20
# Samples of each side that are looked at at most: an AUROC of 0.5 has a standard error of 0.0011 then. A task reads all
# rows for as many dimensions as its memory holds, which are few if it holds all samples of a large run.
LEAKAGE_SIDE = 1 << 17


def leakage_rows(member: Bool[np.ndarray, " n"], seed: int) -> Int[np.ndarray, " m"]:
    """The samples that leakage is measured on, in ascending order: all, or LEAKAGE_SIDE of a side at random."""
    return some_of_each(member, LEAKAGE_SIDE, np.random.default_rng([seed, 4]))


def jackknife(
    vectors_abs: Float16[np.ndarray, "n d"], member: Bool[np.ndarray, " n"], seed: int
) -> Float[np.ndarray, "g d"]:
    """Each dimension's own AUROC, that of the score -|S_i|: of all samples, then without each group of them in turn.

    Counts are exact, so that equal AUROCs are equal for their ranks. Half precision has few values: they are counted
    and not sorted.

    Args:
        vectors_abs: |S_i| of all dimensions, or of some.

    Returns:
        First the AUROCs of all samples, then those without one stratified group: up to GROUPS of them, but no more
        than the smaller side has samples.

    >>> vectors_abs = np.array([[0.1, 0.2], [0.3, 0.9], [0.2, 0.5], [0.4, 0.1]], dtype=np.float16)
    >>> jackknife(vectors_abs, np.array([True, True, False, False]), seed=0)[0]
    array([0.75, 0.25])
    """
    groups = min(GROUPS, int(member.sum()), int((~member).sum()))
    group = folds(member, groups, seed)
    place = group + groups * member
    return np.stack([_leave_out(column, place, groups) for column in vectors_abs.T], axis=1)


def _leave_out(values: Float16[np.ndarray, " n"], place: Int[np.ndarray, " n"], groups: int) -> Float[np.ndarray, " g"]:
    """The AUROCs of minus the values, of all samples and without each group; place: group, + groups if a member."""
    # The bits of positive floats are in their order; a level is a value that there is.
    bits = np.ascontiguousarray(values).view(np.uint16)
    level = np.cumsum(np.bincount(bits) > 0) - 1
    levels = int(level[-1]) + 1
    counts = np.bincount(place * levels + level[bits], minlength=2 * groups * levels).reshape(2, groups, levels)
    everyone = counts.sum(axis=1, keepdims=True)
    heldout, members = np.concatenate([everyone, everyone - counts], axis=1)
    # Twice the members of lower values, as equal values count half.
    lower = 2 * members.cumsum(axis=1) - members
    return (heldout * lower).sum(axis=1) / 2 / (members.sum(axis=1) * heldout.sum(axis=1))


def correlate(influence_mean: Float[np.ndarray, " d"], leaks: Float[np.ndarray, "g d"], confidence: float) -> Estimate:
    """Spearman's correlation, over dimensions, of mean influence and AUROC: the second finding.

    The jackknife's interval, with g groups: value +- t_{g-1} sqrt((g - 1)^2 / g) sd(leave-one-group-out values), cut
    off at -1 and 1 (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 11). A percentile bootstrap
    adds the AUROCs' noise a second time, which pulls its values towards zero. The noise that is there once pulls the
    value itself towards zero, and the interval is of that value.

    Args:
        influence_mean: mean c_i of each dimension, nats.
        leaks: AUROCs from `jackknife`, of all samples and without each of g groups.

    >>> leaks = np.array([[0.5, 0.6, 0.7], [0.5, 0.6, 0.7], [0.5, 0.7, 0.6]])
    >>> correlate(np.array([-3.0, -2.0, -1.0]), leaks, 0.95).value
    1.0
    """
    value, *left = (spearmanr(influence_mean, row).statistic for row in leaks)
    groups = len(left)
    half = t.isf((1 - confidence) / 2, groups - 1) * (groups - 1) / np.sqrt(groups) * np.std(left, ddof=1)
    return Estimate(value=value, low=max(value - half, -1), high=min(value + half, 1))
