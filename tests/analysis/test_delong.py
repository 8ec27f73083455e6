"""DeLong's covariance against explicit placement values, published numbers and the bootstrap."""

import numpy as np
import pytest

from ldm_scale.analysis.delong import Aurocs, delong
from ldm_scale.analysis.metrics import aurocs
from ldm_scale.analysis.ranks import Ranks


def draw(seed: int, members: int = 23, heldout: int = 31, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Three correlated scores, the first two informative."""
    rng = np.random.default_rng(seed)
    member = rng.permutation(np.repeat([True, False], [members, heldout]))
    scores = rng.standard_normal((len(member), 1)) + rng.standard_normal((len(member), 3))
    scores += member[:, None] * [1.0, 0.5, 0.0]
    return (np.round(scores) if ties else scores), member


def win(a: float, b: float) -> float:
    return float(a > b) + float(a == b) / 2


def loops(scores: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROCs and covariance as DeLong et al. (1988) write them: sums over pairs, then over samples."""
    ours, theirs = scores[member], scores[~member]
    m, h, k = len(ours), len(theirs), scores.shape[1]
    v10 = np.array([[sum(win(x[r], y[r]) for y in theirs) / h for r in range(k)] for x in ours])
    v01 = np.array([[sum(win(x[r], y[r]) for x in ours) / m for r in range(k)] for y in theirs])
    values = v10.mean(axis=0)
    covariance = np.zeros((k, k))
    for r in range(k):
        for s in range(k):
            s10 = sum((v[r] - values[r]) * (v[s] - values[s]) for v in v10) / (m - 1)
            s01 = sum((v[r] - values[r]) * (v[s] - values[s]) for v in v01) / (h - 1)
            covariance[r, s] = s10 / m + s01 / h
    return values, covariance


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("members", "heldout"), [(23, 31), (2, 9), (9, 2)])
def test_values_and_covariance_match_loops_over_pairs(members: int, heldout: int, ties: bool) -> None:
    scores, member = draw(0, members, heldout, ties)
    result = delong(scores, member)
    values, covariance = loops(scores, member)
    np.testing.assert_allclose(result.values, values, atol=1e-12)
    np.testing.assert_allclose(result.covariance, covariance, atol=1e-12)
    np.testing.assert_allclose(result.values, aurocs(scores, member), atol=1e-12)


def test_wins_are_counts_against_the_other_side() -> None:
    scores, member = np.array([3.0, 1.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False, False])
    ours, theirs = Ranks(scores, member).wins()
    assert ours.tolist() == [3, 1.5]
    assert theirs.tolist() == [1.5, 1, 2]


def test_the_published_example_of_radiologists_ratings() -> None:
    # Ratings 1 ... 5 of 58 normal and 51 abnormal CT images (Hanley & McNeil 1982, table I). The Stata manual's
    # "roctab" example of these data prints 0.8932, DeLong's standard error 0.0307, and 0.83295 to 0.95339.
    normal, abnormal = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)
    ratings = np.concatenate([np.repeat(np.arange(1.0, 6.0), counts) for counts in (normal, abnormal)])
    result = delong(ratings[:, None], np.arange(109) >= 58)
    assert result.values[0] == pytest.approx(0.8932, abs=5e-5)
    assert result.covariance[0, 0] ** 0.5 == pytest.approx(0.0307, abs=5e-5)
    np.testing.assert_allclose(result.intervals(0.95)[0], [0.83295, 0.95339], atol=5e-6)


def test_the_difference_is_that_of_correlated_scores() -> None:
    scores, member = draw(1)
    result = delong(scores, member)
    value, low, high = result.difference(0, 2, 0.9)
    _, covariance = loops(scores, member)
    contrast = np.array([1.0, 0.0, -1.0])
    deviation = np.sqrt(contrast @ covariance @ contrast)
    assert value == pytest.approx(result.values[0] - result.values[2])
    assert (low, high) == pytest.approx((value - 1.644854 * deviation, value + 1.644854 * deviation), abs=1e-6)
    assert result.difference(2, 0, 0.9) == pytest.approx((-value, -high, -low))


def test_a_score_does_not_differ_from_itself() -> None:
    scores, member = draw(2)
    assert delong(scores, member).difference(1, 1, 0.95) == (0.0, 0.0, 0.0)
    separated = np.stack([member.astype(float), -member.astype(float)], axis=1)
    assert delong(separated, member).difference(0, 1, 0.95) == (1.0, 1.0, 1.0)


def test_intervals_stay_between_zero_and_one() -> None:
    result = Aurocs(np.array([0.99, 0.01]), np.eye(2) * 0.01)
    np.testing.assert_allclose(result.intervals(0.95), [[0.99 - 0.195996, 1], [0, 0.01 + 0.195996]], atol=1e-6)


def test_the_standard_errors_are_those_of_repeated_draws() -> None:
    results = [delong(*draw(seed, 60, 60, ties=False)) for seed in range(400)]
    observed = np.cov([r.values for r in results], rowvar=False)
    # A standard deviation of 400 draws is known to 1 / sqrt(800) = 3.5%, a variance to 7%.
    expected = np.mean([r.covariance for r in results], axis=0)
    np.testing.assert_allclose(np.diag(expected), np.diag(observed), rtol=0.28)
    np.testing.assert_allclose(expected, observed, atol=4 * 0.1 * observed.max())
