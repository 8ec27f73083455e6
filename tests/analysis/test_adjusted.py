"""Geometry-adjusted scores against the normal equations, and what they remove."""

import numpy as np
import pytest

from ldm_scale.analysis.adjusted import adjust, adjusted_scorer, cross_adjust, geometry_features
from ldm_scale.analysis.folds import folds
from ldm_scale.analysis.metrics import aurocs
from ldm_scale.analysis.splithalf import halves


def draw(seed: int, count: int = 90, confounding: float = 3.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two log statistics that follow the geometry, members lower by one; three features; the labels."""
    rng = np.random.default_rng(seed)
    member = rng.permutation(np.arange(count) % 2 == 0)
    features = rng.standard_normal((count, 3)) * [1, 0.1, 30] + [-2, 1, 500]
    level = (features - features.mean(axis=0)) / features.std(axis=0) @ np.array([1.0, -0.5, 0.3])
    statistics = confounding * level[:, None] * [1, -1] + rng.standard_normal((count, 2)) - member[:, None]
    return statistics, features, member


def negative(statistics: np.ndarray) -> list[np.ndarray]:
    """The scores whose log statistics these are."""
    return [*-np.exp(statistics.T)]


def ridge(inputs: np.ndarray, targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Predictions for `rows` by the normal equations with penalty 1 on standardised inputs, the mean not penalised."""
    mean, spread = inputs.mean(axis=0), inputs.std(axis=0)
    x = (inputs - mean) / spread
    slope = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ (targets - targets.mean(axis=0)))
    return (rows - mean) / spread @ slope + targets.mean(axis=0)


def test_scores_are_minus_the_residuals_of_a_fit_on_known_samples() -> None:
    statistics, features, _ = draw(0)
    known, rows = np.arange(40), np.arange(30, 90)
    scores = adjust(statistics[known], features[known], statistics[rows], features[rows])
    predicted = ridge(features[known], statistics[known], features[rows])
    np.testing.assert_allclose(scores, predicted - statistics[rows], atol=1e-10)
    one = adjust(statistics[known, :1], features[known], statistics[rows, :1], features[rows])
    np.testing.assert_allclose(one, scores[:, :1], atol=1e-12)


def test_the_scorer_reports_by_a_fit_on_the_choosing_halfs_held_out_samples() -> None:
    statistics, features, member = draw(0)
    statistics[:, 1] += np.random.default_rng(1).standard_normal(len(member)) * 3
    choose, report = halves(member, 0, 0)
    pick, scores = adjusted_scorer(negative(statistics), features, member, 5)(0, choose, report)
    assert pick == 0  # the other is drowned in noise
    known = choose[~member[choose]]
    expected = adjust(statistics[known], features[known], statistics[report], features[report])
    np.testing.assert_allclose(scores, expected[:, 0], atol=1e-12)


def test_each_fold_is_scored_by_the_others_held_out_samples() -> None:
    statistics, features, member = draw(1)
    fold = folds(member, 2, 5)
    scores = cross_adjust(statistics, features, member, 5)
    for part in range(2):
        inside, known = fold == part, (fold != part) & ~member
        expected = ridge(features[known], statistics[known], features[inside]) - statistics[inside]
        np.testing.assert_allclose(scores[inside], expected, atol=1e-10)


def test_neither_members_nor_a_samples_own_statistic_touch_its_prediction() -> None:
    statistics, features, member = draw(2)
    statistics, (choose, report) = statistics[:, :1], halves(member, 0, 0)
    before = adjusted_scorer(negative(statistics), features, member, 0)(0, choose, report)[1]
    changed = statistics + 100.0 * member[:, None]
    changed[report] += 7.0
    after = adjusted_scorer(negative(changed), features, member, 0)(0, choose, report)[1]
    np.testing.assert_allclose(after, before - 100.0 * member[report] - 7.0, atol=1e-9)


def test_it_recovers_members_that_geometry_hides() -> None:
    statistics, features, member = draw(3, 1200)
    choose, report = halves(member, 0, 0)
    _, scores = adjusted_scorer(negative(statistics), features, member, 0)(0, choose, report)
    # Two unit normals one apart: AUROC Phi(1 / sqrt 2) = 0.760.
    assert aurocs(scores[:, None], member[report])[0] == pytest.approx(0.760, abs=4 * 0.02)
    assert aurocs(-statistics, member).max() < 0.65


@pytest.mark.parametrize(("missing", "columns"), [(0, 3), (1, 2), (5, 2)])
def test_distortion_counts_only_where_every_sample_has_it(missing: int, columns: int) -> None:
    mean, spread, distortion = np.arange(15, dtype=np.float32).reshape(3, 5)
    distortion[:missing] = np.nan
    features = geometry_features(mean, spread, distortion)
    assert features.shape == (5, columns)
    np.testing.assert_array_equal(features, np.stack([mean, spread, distortion][:columns], axis=1))
