"""The combined score: features against loops, no score from a fit that saw its sample."""

import numpy as np
import pytest

from ldm_scale.analysis import combined
from ldm_scale.analysis.combined import (
    LogOdds,
    classifier,
    cross_fit,
    fitted_rows,
    least_positive,
)
from ldm_scale.analysis.metrics import aurocs
from ldm_scale.analysis.splithalf import choosing, halves
from tests.analysis.simulation import simulate
from tests.analysis.spectra import features_of


@pytest.mark.parametrize(("bins", "groups"), [(20, 5), (7, 3), (4, 5), (1, 5)])
def test_features_are_logs_of_sums_over_neighbouring_bins(bins: int, groups: int) -> None:
    rng = np.random.default_rng(0)
    spectra = [rng.lognormal(size=(6, steps, bins)).astype(np.float32) for steps in (3, 1)]
    count = min(groups, bins)
    columns = []
    for spectrum in spectra:
        for t in range(spectrum.shape[1]):
            for g in range(count):
                inside = [b for b in range(bins) if g * bins // count <= b < (g + 1) * bins // count]
                assert inside
                columns.append([np.log(sum(float(row[t, b]) for b in inside)) for row in spectrum])
    np.testing.assert_allclose(features_of(spectra, groups), np.transpose(columns), rtol=1e-12)


def test_zeros_become_the_smallest_positive_value_of_their_feature() -> None:
    spectrum = np.array([[[0.0, 0.0]], [[2.0, 0.0]], [[0.5, 0.0]]])
    expected = np.log([[0.5, 1.0], [2.0, 1.0], [0.5, 1.0]])
    np.testing.assert_allclose(features_of([spectrum]), expected)


def test_the_reported_half_is_scored_by_a_fit_on_the_choosing_half() -> None:
    data = simulate(0, 90, signal=0.5)
    features, (choose, report) = features_of(data.spectra), halves(data.member, 0, 0)
    scores = LogOdds.fit(features[choose], data.member[choose]).scores(features[report])
    model = classifier(features.shape[1]).fit(features[choose], data.member[choose])
    np.testing.assert_allclose(scores, model.decision_function(features[report]), rtol=1e-9, atol=1e-9)


def test_each_half_of_each_halving_is_scored_by_a_fit_on_the_other_half() -> None:
    data = simulate(0, 90, signal=0.5)
    features, chosen = features_of(data.spectra), choosing(data.member, 2, 0)
    odds = cross_fit(features, data.member, chosen, 0)
    for row, one in zip(odds, chosen, strict=True):
        for half in (one, ~one):
            fit = LogOdds.fit(features[half], data.member[half])
            np.testing.assert_array_equal(row[~half], fit.scores(features[~half]))


def test_a_sample_scores_the_same_among_any_others() -> None:
    data = simulate(1, 60, signal=0.3)
    features = features_of(data.spectra)
    model = LogOdds.fit(features, data.member)
    some = [model.scores(part) for part in np.split(features, [1, 2, 9, 40])]
    np.testing.assert_array_equal(np.concatenate(some), model.scores(features))


def test_the_least_positive_values_of_parts_merge_by_the_minimum() -> None:
    sums = np.round(np.random.default_rng(0).random((30, 8)) ** 4, 1)
    sums[:, 3] = 0
    parts = [least_positive(part) for part in np.split(sums, [1, 13])]
    np.testing.assert_array_equal(np.min(parts, axis=0), least_positive(sums))
    assert least_positive(sums)[3] == np.inf


def test_a_fit_sees_all_of_a_small_half_and_a_fixed_number_of_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    choose = np.random.default_rng(0).random(400) < 0.5
    np.testing.assert_array_equal(fitted_rows(choose, 0, 0), np.flatnonzero(choose))
    monkeypatch.setattr(combined, "FITTED", 50)
    first, again, other = (fitted_rows(choose, 0, halving) for halving in (0, 0, 1))
    assert len(set(first)) == 50
    assert set(first) <= set(np.flatnonzero(choose))
    assert first.tolist() == sorted(first)
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


def test_a_fit_on_fewer_samples_loses_half_a_nat_a_weight_over_all_of_them() -> None:
    """The expected excess of the log loss is features / (2 samples): 0.005 for 20 features and 2,000 samples."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(20) / 20**0.5
    features = rng.standard_normal((60_000, 20))
    member = rng.random(60_000) < 1 / (1 + np.exp(-features @ weights))
    fresh, signs = features[40_000:], np.where(member[40_000:], 1, -1)

    def loss(rows: slice) -> float:
        return float(np.logaddexp(0, -signs * LogOdds.fit(features[rows], member[rows]).scores(fresh)).mean())

    excess = [loss(slice(start, start + 2000)) - loss(slice(40_000)) for start in range(0, 40_000, 2000)]
    # A loss is chi-squared with 20 degrees of freedom: relative deviation (2 / 20)^0.5, of 20 fits a little of that.
    assert np.mean(excess) == pytest.approx(20 / (2 * 2000), rel=4 * (0.1 / 20) ** 0.5)


def test_it_finds_what_no_single_feature_shows() -> None:
    # A level shared by both features hides the members; their difference shows them.
    rng = np.random.default_rng(0)
    member = np.arange(600) % 2 == 0
    features = 3 * rng.standard_normal((600, 1)) + 0.3 * rng.standard_normal((600, 2))
    features[:, 0] -= 0.9 * member
    assert aurocs(-features, member).max() < 0.65
    choose, report = halves(member, 0, 0)
    scores = LogOdds.fit(features[choose], member[choose]).scores(features[report])
    assert aurocs(scores[:, None], member[report])[0] > 0.85  # of a possible Phi(0.9 / 0.6) = 0.93
