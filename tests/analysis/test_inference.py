"""Dataset inference: Welch's test by hand, and one p-value from many."""

import numpy as np
import pytest
from scipy.stats import norm, t

from ldm_scale.analysis.inference import aggregate, infer_dataset


def welch(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """The statistic, and p."""
    a, b = ours.var(ddof=1) / len(ours), theirs.var(ddof=1) / len(theirs)
    statistic = (ours.mean() - theirs.mean()) / (a + b) ** 0.5
    freedom = (a + b) ** 2 / (a**2 / (len(ours) - 1) + b**2 / (len(theirs) - 1))
    return float(statistic), float(t.sf(statistic, freedom))


def test_it_is_twice_the_median_of_welchs_one_sided_tests_of_both_halves() -> None:
    rng = np.random.default_rng(0)
    suspect = rng.permutation(np.arange(101) % 3 == 0)
    odds = rng.standard_normal((3, 101)) * (1 + suspect) + 0.6 * suspect
    chosen = rng.random((3, 101)) < 0.5
    found = [
        welch(row[half & suspect], row[half & ~suspect])
        for row, one in zip(odds, chosen, strict=True)
        for half in (one, ~one)
    ]
    statistics, p_values = (sorted(column) for column in zip(*found, strict=True))
    result = infer_dataset(odds, chosen, suspect)
    assert result.statistic == pytest.approx((statistics[2] + statistics[3]) / 2)
    assert result.p_value == pytest.approx(p_values[2] + p_values[3])
    assert (result.tests, result.members, result.heldout) == (6, 34, 67)


def test_suspects_that_score_lower_are_no_evidence() -> None:
    suspect, chosen = np.arange(80) % 2 == 0, np.arange(80)[None] < 40
    result = infer_dataset(np.random.default_rng(0).standard_normal((1, 80)) - 2.0 * suspect, chosen, suspect)
    assert result.statistic < 0
    assert result.p_value == 1


@pytest.mark.parametrize("correlation", [-0.05, 0.5, 1.0])
def test_the_aggregate_keeps_its_size_however_p_values_depend(correlation: float) -> None:
    # Equally correlated normals; of 20 of them -1 / 19 is the least correlation that there is.
    covariance = np.full((20, 20), correlation) + (1 - correlation) * np.eye(20)
    draws = np.random.default_rng(0).multivariate_normal(np.zeros(20), covariance, size=4_000)
    p_values = np.array([aggregate(row) for row in norm.sf(draws)])
    for level in (0.05, 0.2):
        assert (p_values <= level).mean() <= level + 4 * (level / 4_000) ** 0.5


def test_the_aggregate_reaches_its_size_so_that_no_smaller_factor_would_hold() -> None:
    # All at once: 11 of 21 p-values are uniform on (0, 0.025], with such a chance that each alone is uniform on (0, 1].
    rng = np.random.default_rng(0)
    chance = 0.025 * 21 / 11
    low = (rng.random((4_000, 1)) < chance) & (rng.permuted(np.tile(np.arange(21), (4_000, 1)), axis=1) < 11)
    p_values = np.where(low, 0.025 * rng.random(low.shape), 0.025 + 0.975 * rng.random(low.shape))
    assert (p_values <= 0.5).mean() == pytest.approx(0.5, abs=0.01)
    found = np.array([aggregate(row) for row in p_values])
    assert (found <= 0.05).mean() == pytest.approx(chance, abs=4 * (chance / 4_000) ** 0.5)
