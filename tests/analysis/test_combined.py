"""The combined score: features against loops, no score from a fit that saw its sample."""

import numpy as np
import pytest

from ldm_scale.analysis.combined import classifier, combined_scorer, log_features
from ldm_scale.analysis.metrics import aurocs
from ldm_scale.analysis.splithalf import halves
from tests.analysis.simulation import simulate


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
    np.testing.assert_allclose(log_features(spectra, groups), np.transpose(columns), rtol=1e-12)


def test_zeros_become_the_smallest_positive_value_of_their_feature() -> None:
    spectrum = np.array([[[0.0, 0.0]], [[2.0, 0.0]], [[0.5, 0.0]]])
    expected = np.log([[0.5, 1.0], [2.0, 1.0], [0.5, 1.0]])
    np.testing.assert_allclose(log_features([spectrum]), expected)


def test_the_reported_half_is_scored_by_a_fit_on_the_choosing_half() -> None:
    data = simulate(0, 90, signal=0.5)
    features, (choose, report) = log_features(data.spectra), halves(data.member, 0, 0)
    pick, scores = combined_scorer(features, data.member)(choose, report)
    model = classifier(features.shape[1]).fit(features[choose], data.member[choose])
    assert pick == 0
    np.testing.assert_allclose(scores, model.decision_function(features[report]))


def test_a_reported_samples_own_label_does_not_touch_its_score() -> None:
    data = simulate(1, 60, signal=0.3)
    features, (choose, report) = log_features(data.spectra), halves(data.member, 0, 0)
    flipped = data.member.copy()
    flipped[report] ^= True
    scores = [combined_scorer(features, member)(choose, report)[1] for member in (data.member, flipped)]
    np.testing.assert_array_equal(*scores)


def test_it_finds_what_no_single_feature_shows() -> None:
    # A level shared by both features hides the members; their difference shows them.
    rng = np.random.default_rng(0)
    member = np.arange(600) % 2 == 0
    features = 3 * rng.standard_normal((600, 1)) + 0.3 * rng.standard_normal((600, 2))
    features[:, 0] -= 0.9 * member
    assert aurocs(-features, member).max() < 0.65
    choose, report = halves(member, 0, 0)
    scores = combined_scorer(features, member)(choose, report)[1]
    assert aurocs(scores[:, None], member[report])[0] > 0.85  # of a possible Phi(0.9 / 0.6) = 0.93
