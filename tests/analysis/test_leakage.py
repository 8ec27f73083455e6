"""Each dimension's leakage against scikit-learn, and its correlation with influence against leaving groups out."""

import numpy as np
import pytest
from scipy.stats import spearmanr, t
from sklearn.metrics import roc_auc_score

from ldm_scale.analysis.folds import folds
from ldm_scale.analysis.leakage import GROUPS, correlate, jackknife

INFLUENCE = np.random.default_rng(9).standard_normal(48)


def draw(seed: int, count: int = 200, gain: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """|S_i| of 48 dimensions, correlated within a sample; members' are lower, most so in influential dimensions."""
    rng = np.random.default_rng(seed)
    member = rng.permutation(np.arange(count) % 2 == 0)
    log = 0.4 * rng.standard_normal((count, 1)) + rng.standard_normal((count, 48))
    return np.exp(log - member[:, None] * gain * (1 + INFLUENCE)).astype(np.float16), member


def loops(vectors: np.ndarray, member: np.ndarray) -> np.ndarray:
    return np.array([roc_auc_score(member, -column) for column in vectors.T])


def pairs(vectors: np.ndarray, member: np.ndarray) -> np.ndarray:
    """The same by counting, so that equal AUROCs are exactly equal."""
    ours, theirs = vectors[member][:, None], vectors[~member][None]
    return ((ours < theirs) + (ours == theirs) / 2).mean(axis=(0, 1), dtype=np.float64)


def test_each_column_has_its_own_auroc_of_minus_its_value() -> None:
    vectors, member = draw(0)
    np.testing.assert_allclose(jackknife(vectors, member, 0)[0], loops(vectors, member), atol=1e-12)


def test_dimensions_may_be_taken_apart() -> None:
    vectors, member = draw(2, 90)
    apart = [jackknife(some, member, 5) for some in np.split(vectors, [7, 30], axis=1)]
    np.testing.assert_array_equal(np.concatenate(apart, axis=1), jackknife(vectors, member, 5))


@pytest.mark.parametrize("count", [201, 30])
def test_the_interval_is_the_jackknife_over_groups(count: int) -> None:
    vectors, member = draw(1, count)
    vectors = np.round(vectors, 1)  # ties
    found = correlate(INFLUENCE, jackknife(vectors, member, 3), 0.9)
    groups = min(GROUPS, count // 2)
    group = folds(member, groups, 3)
    left = [spearmanr(INFLUENCE, pairs(vectors[group != g], member[group != g])).statistic for g in range(groups)]
    error = np.sqrt((groups - 1) / groups * np.sum((left - np.mean(left)) ** 2))
    assert found.value == pytest.approx(spearmanr(INFLUENCE, pairs(vectors, member)).statistic)
    assert found.low == pytest.approx(max(-1, found.value - t.ppf(0.95, groups - 1) * error))
    assert found.high == pytest.approx(min(1, found.value + t.ppf(0.95, groups - 1) * error))


def test_the_interval_holds_the_expected_value_as_often_as_it_says() -> None:
    results = [correlate(INFLUENCE, jackknife(*draw(seed), seed + 1), 0.9) for seed in range(100)]
    value, low, high = np.array([(found.value, found.low, found.high) for found in results]).T
    covered = ((low <= value.mean()) & (value.mean() <= high)).sum()
    assert covered >= 82  # binomial(100, 0.9): below it once in 200 times


def test_it_is_zero_without_members_that_differ_and_large_with_them() -> None:
    chance = [correlate(INFLUENCE, jackknife(*draw(seed, gain=0.0), seed), 0.9).value for seed in range(30)]
    assert abs(np.mean(chance)) < 4 * np.std(chance) / 30**0.5
    assert correlate(INFLUENCE, jackknife(*draw(0, 1000), 0), 0.95).low > 0.7
