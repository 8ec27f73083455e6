"""Membership metrics against scikit-learn, pair counts and loops over thresholds."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ldm_scale.analysis import metrics, resamples
from ldm_scale.analysis.metrics import NAMES, CoarseRoc, Roc, aurocs, evaluate
from ldm_scale.analysis.resamples import bootstrap_weights

Data = tuple[np.ndarray, np.ndarray]


def draw(seed: int, members: int = 40, heldout: int = 50, shift: float = 0.7, ties: bool = False) -> Data:
    """Normal scores, members higher by `shift`, in a random order; rounded to few values where ties are wanted."""
    rng = np.random.default_rng(seed)
    member = rng.permutation(np.repeat([True, False], [members, heldout]))
    scores = rng.standard_normal(len(member)) + shift * member
    return (np.round(scores) if ties else scores), member


def bootstrap(scores: np.ndarray, member: np.ndarray, count: int, confidence: float, seed: int) -> np.ndarray:
    """The intervals of one score, (5, 2)."""
    return metrics.bootstrap([scores], member, count, confidence, seed)[0]


def pair_count(scores: np.ndarray, member: np.ndarray) -> float:
    """The share of (member, held-out) pairs with the member higher; equal ones count half."""
    pairs = [(a > b) + (a == b) / 2 for a in scores[member] for b in scores[~member]]
    return sum(pairs) / len(pairs)


def rates(scores: np.ndarray, member: np.ndarray) -> list[tuple[float, float]]:
    """(FPR, TPR) of "score >= threshold" at every threshold that matters."""
    found = [(scores >= threshold) for threshold in (np.inf, *scores)]
    return [(float(hit[~member].mean()), float(hit[member].mean())) for hit in found]


def tpr_at(scores: np.ndarray, member: np.ndarray, level: float) -> float:
    return max(tpr for fpr, tpr in rates(scores, member) if fpr <= level + 1e-12)


CASES = [
    draw(0),
    draw(1, ties=True),
    draw(2, members=7, heldout=90),
    draw(3, members=1, heldout=1),
    draw(4, shift=-2.0, ties=True),
    (np.zeros(9), np.arange(9) < 4),
]


@pytest.mark.parametrize(("scores", "member"), CASES)
def test_auroc_is_the_share_of_ordered_pairs(scores: np.ndarray, member: np.ndarray) -> None:
    value = evaluate(scores, member)[0]
    assert value == pytest.approx(pair_count(scores, member), abs=1e-12)
    assert value == pytest.approx(roc_auc_score(member, scores), abs=1e-12)


@pytest.mark.parametrize(("scores", "member"), CASES)
def test_asr_is_the_best_balanced_accuracy_over_thresholds(scores: np.ndarray, member: np.ndarray) -> None:
    best = max((tpr + 1 - fpr) / 2 for fpr, tpr in rates(scores, member))
    assert evaluate(scores, member)[1] == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("level", [0.0, 0.001, 0.01, 0.02, 0.1, 0.3, 1.0])
@pytest.mark.parametrize(("scores", "member"), CASES)
def test_tpr_at_fpr_takes_the_lowest_allowed_threshold(scores: np.ndarray, member: np.ndarray, level: float) -> None:
    assert Roc(scores, member).curve().tpr_at(level)[0] == pytest.approx(tpr_at(scores, member, level), abs=1e-12)


def test_tpr_at_fpr_does_not_interpolate() -> None:
    # One of two held-out samples is above one of two members: no threshold between FPR 0 and 1/2.
    scores, member = np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, False, True, False])
    curve = Roc(scores, member).curve()
    assert [curve.tpr_at(level)[0] for level in (0.0, 0.49, 0.5)] == [0.5, 0.5, 1.0]


def test_an_allowed_rate_includes_equality_with_an_inexact_quotient() -> None:
    # 3 of 300 held-out samples above is exactly 1%, whatever the floating-point quotient.
    heldout = np.concatenate([np.full(3, 9.0), np.zeros(297)])
    scores, member = np.append(heldout, [5.0] * 10), np.arange(310) >= 300
    assert evaluate(scores, member)[2] == 1.0
    scores[3] = 9.0
    assert evaluate(scores, member)[2] == 0.0


def test_perfect_and_reversed_scores_reach_the_ends() -> None:
    member = np.arange(10) < 5
    assert evaluate(member.astype(float), member).tolist() == [1.0, 1.0, 1.0, 1.0, 1.0]
    assert evaluate(-member.astype(float), member).tolist() == [0.0, 0.5, 0.0, 0.0, 0.0]


def test_chance_scores_give_a_half() -> None:
    values = [evaluate(*draw(seed, 500, 500, shift=0.0))[0] for seed in range(20)]
    # Standard deviation of one AUROC: sqrt((n + m + 1) / (12 n m)) = 0.0183; four standard errors of the mean of 20.
    assert np.mean(values) == pytest.approx(0.5, abs=4 * 0.0183 / 20**0.5)
    assert np.std(values) == pytest.approx(0.0183, rel=0.5)


@pytest.mark.parametrize("transform", [lambda s: np.exp(s / 3), lambda s: 5 * s - 2, lambda s: s**3, np.arctan])
def test_metrics_do_not_change_under_increasing_transforms(transform: Callable[[np.ndarray], np.ndarray]) -> None:
    scores, member = draw(5)
    np.testing.assert_array_equal(evaluate(transform(scores), member), evaluate(scores, member))


def test_metrics_do_not_depend_on_the_order_of_samples() -> None:
    scores, member = draw(6, ties=True)
    order = np.random.default_rng(0).permutation(len(scores))
    np.testing.assert_array_equal(evaluate(scores[order], member[order]), evaluate(scores, member))


@pytest.mark.parametrize("ties", [False, True])
def test_weights_are_repeated_samples(ties: bool) -> None:
    scores, member = draw(7, ties=ties)
    weights = np.random.default_rng(1).integers(0, 4, (5, len(scores)))
    values = Roc(scores, member).curve(weights.astype(float)).all()
    for row, value in zip(weights, values, strict=True):
        repeated = np.repeat(np.arange(len(scores)), row)
        np.testing.assert_allclose(value, evaluate(scores[repeated], member[repeated]), atol=1e-12)
        assert value[0] == pytest.approx(roc_auc_score(member, scores, sample_weight=row), abs=1e-12)


def test_the_curve_runs_from_origin_to_one_with_a_point_for_each_distinct_score() -> None:
    scores, member = draw(8, ties=True)
    curve = Roc(scores, member).curve()
    assert curve.fpr.shape == curve.tpr.shape == (1, len(np.unique(scores)) + 1)
    assert (curve.fpr[0, 0], curve.tpr[0, 0], curve.fpr[0, -1], curve.tpr[0, -1]) == (0, 0, 1, 1)
    assert set(zip(curve.fpr[0], curve.tpr[0], strict=True)) == set(rates(scores, member))


def test_bootstrap_is_seeded() -> None:
    scores, member = draw(10)
    first = bootstrap(scores, member, 100, 0.9, 3)
    np.testing.assert_array_equal(first, bootstrap(scores, member, 100, 0.9, 3))
    assert not np.array_equal(first, bootstrap(scores, member, 100, 0.9, 4))


def test_intervals_match_a_loop_that_resamples_each_side() -> None:
    scores, member = draw(11)
    resamples = 4000
    low, high = bootstrap(scores, member, resamples, 0.9, 0)[0]
    rng = np.random.default_rng(1)
    ours, theirs = scores[member], scores[~member]
    wins = (ours[:, None] > theirs[None]) + (ours[:, None] == theirs[None]) / 2
    values = []
    for _ in range(resamples):
        rows, columns = rng.integers(0, len(ours), len(ours)), rng.integers(0, len(theirs), len(theirs))
        values.append(wins[np.ix_(rows, columns)].mean())
    # A 5% quantile of 4,000 normal draws has standard error sqrt(.05 * .95 / 4000) / 0.103 = 0.033 deviations; two
    # such quantiles differ by less than four standard errors of their difference.
    tolerance = 4 * 2**0.5 * 0.033 * np.std(values)
    np.testing.assert_allclose([low, high], np.quantile(values, [0.05, 0.95]), atol=tolerance)


def test_all_four_intervals_match_a_loop_over_resampled_data_sets() -> None:
    scores, member = draw(12, 20, 25)
    intervals = bootstrap(scores, member, 2000, 0.8, 0)
    rng = np.random.default_rng(1)
    sides = np.flatnonzero(member), np.flatnonzero(~member)
    draws = []
    for _ in range(2000):
        rows = np.concatenate([rng.choice(side, len(side)) for side in sides])
        values = rates(scores[rows], member[rows])
        draws.append([max((tpr + 1 - fpr) / 2 for fpr, tpr in values), max(t for f, t in values if f <= 0.01)])
    expected = np.quantile(draws, [0.1, 0.9], axis=0).T
    # Steps of 1/20 and 1/25: the quantiles of discrete values agree to one step of TPR, and to half of one in ASR.
    np.testing.assert_allclose(intervals[1], expected[0], atol=0.025)
    np.testing.assert_allclose(intervals[2], expected[1], atol=0.05)
    np.testing.assert_array_equal(intervals[3], intervals[2])  # with 25 held-out samples both levels allow none


def test_intervals_hold_the_value_and_widen_with_confidence() -> None:
    scores, member = draw(13, 200, 200)
    values = evaluate(scores, member)
    wide, narrow = (bootstrap(scores, member, 500, level, 0) for level in (0.99, 0.5))
    assert (wide[:, 0] <= values).all()
    assert (values <= wide[:, 1]).all()
    assert (np.diff(wide) > np.diff(narrow)).all()


def test_intervals_shrink_with_the_root_of_the_sample_size() -> None:
    widths = [np.mean([np.ptp(bootstrap(*draw(s, n, n), 400, 0.9, 0)[0]) for s in range(5)]) for n in (100, 1600)]
    # The mean of five widths from 400 resamples each is known to about 4%.
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.2)


def test_names_are_in_the_order_of_the_values() -> None:
    assert NAMES == ("auroc", "asr", "tpr_at_1pct_fpr", "tpr_at_01pct_fpr", "paper_tpr_at_1pct_fpr")
    curve = Roc(*draw(14, 2000, 2000)).curve()
    rates = [curve.tpr_at(0.01)[0], curve.tpr_at(0.001)[0], curve.paper_tpr_at(0.01)[0]]
    expected = [curve.auroc()[0], curve.asr()[0], *rates]
    assert curve.all()[0].tolist() == expected
    assert len(set(expected)) == 5


@pytest.mark.parametrize(("scores", "member"), CASES)
def test_the_fast_auroc_is_the_share_of_ordered_pairs(scores: np.ndarray, member: np.ndarray) -> None:
    columns = np.stack([scores, -scores, np.round(scores), np.zeros(len(scores))], axis=1)
    expected = [pair_count(column, member) for column in columns.T]
    np.testing.assert_allclose(aurocs(columns, member), expected, atol=1e-12)


@pytest.mark.parametrize(("scores", "member"), [*CASES, draw(15, 300, 200), draw(16, 250, 250, ties=True)])
def test_the_papers_orientation_finds_held_out_samples(scores: np.ndarray, member: np.ndarray) -> None:
    statistic = -scores
    found = [statistic >= threshold for threshold in (np.inf, *statistic)]
    expected = max(hit[~member].mean() for hit in found if hit[member].mean() <= 0.01 + 1e-12)
    assert Roc(scores, member).curve().paper_tpr_at(0.01)[0] == pytest.approx(expected, abs=1e-12)


def hard_to_sort() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    near = 1 + rng.integers(0, 50, 1000) * np.finfo(float).eps  # they differ in their last bits alone
    return [near, -near, np.tile([0.0, -0.0, 1e-320, -1e300, 5.0, -0.0], 20)]


@pytest.mark.parametrize("scores", hard_to_sort())
def test_scores_that_differ_little_or_not_at_all_are_told_apart_exactly(scores: np.ndarray) -> None:
    member = np.random.default_rng(1).permutation(np.arange(len(scores)) % 2 == 0)
    assert evaluate(scores, member)[0] == pytest.approx(pair_count(scores, member), abs=1e-12)


@pytest.fixture
def few_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every data set counts as a large one, and its cells are wide."""
    monkeypatch.setattr(resamples, "EXACT", 0)
    monkeypatch.setattr(metrics, "CELLS", 64)


# Of 3,000 a side, resamples' 1% lies within the first 85, which is the tail; what is left are cells of 47 and 47.
LARGE = [
    draw(20, 3000, 3000),
    draw(21, 3000, 3000, shift=2.5),
    draw(22, 3000, 3000, shift=-1.0),
    draw(23, 3000, 3000, ties=True),
    draw(24, 5000, 1000),
]


@pytest.mark.usefixtures("few_cells")
@pytest.mark.parametrize(("scores", "member"), LARGE)
def test_coarse_curves_have_the_exact_rates_and_nearly_the_exact_areas(scores: np.ndarray, member: np.ndarray) -> None:
    weights = next(bootstrap_weights(member, 200, np.random.default_rng(0)))
    fine, coarse = Roc(scores, member).curve(weights), CoarseRoc(scores, member).curve(weights)
    assert coarse.fpr.shape[1] < fine.fpr.shape[1] / 3 or fine.fpr.shape[1] < 20
    np.testing.assert_allclose(coarse.all()[:, 2:], fine.all()[:, 2:], atol=1e-12)
    np.testing.assert_allclose(coarse.all()[:, :2], fine.all()[:, :2], atol=1 / 64)
    # A cell's loss of AUROC is half of it by half of it, at most; of ASR, what it holds of one side alone.
    assert np.abs(coarse.auroc() - fine.auroc()).max() < 1 / 64 / 2
    assert (coarse.asr() <= fine.asr() + 1e-12).all()


@pytest.mark.usefixtures("few_cells")
def test_coarse_cells_lose_something_so_that_the_bound_is_put_to_the_test() -> None:
    scores, member = LARGE[0]
    weights = next(bootstrap_weights(member, 50, np.random.default_rng(0)))
    lost = Roc(scores, member).curve(weights).asr() - CoarseRoc(scores, member).curve(weights).asr()
    assert lost.max() > 0


# The slow two are sets whose curves are compared point by point above.
@pytest.mark.parametrize(
    ("scores", "member"), [LARGE[0], LARGE[3], *(pytest.param(*data, marks=pytest.mark.slow) for data in LARGE[1:3])]
)
def test_intervals_of_a_large_set_agree_with_the_exact_ones(
    scores: np.ndarray, member: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = bootstrap(scores, member, 4000, 0.9, 0)
    monkeypatch.setattr(resamples, "EXACT", 0)
    found = bootstrap(scores, member, 4000, 0.9, 1)
    # Two 5% quantiles of 4,000 draws each differ by four standard errors at most (see above), and by a rate's step.
    tolerance = 4 * 2**0.5 * 0.033 * np.ptp(exact, axis=1) / (2 * 1.645) + 1 / 3000
    assert (np.abs(found - exact) <= tolerance[:, None]).all()
