"""Dataset inference: Welch's test by hand, on rows that the fit has not seen."""

import numpy as np
import pytest
from scipy.stats import t

from ldm_scale.analysis.combined import classifier, log_features
from ldm_scale.analysis.inference import infer_dataset
from ldm_scale.analysis.splits import folds
from tests.analysis.simulation import simulate


def test_it_is_welchs_one_sided_test_of_the_reported_half() -> None:
    data = simulate(0, 101, shared=0.4, signal=0.2)
    features, half = log_features(data.spectra), folds(data.member, 2, 0)
    choose, report = np.flatnonzero(half == 0), np.flatnonzero(half == 1)
    result = infer_dataset(features, data.member, choose, report)
    odds = classifier(features.shape[1]).fit(features[choose], data.member[choose]).decision_function(features[report])
    ours, theirs = odds[data.member[report]], odds[~data.member[report]]
    a, b = ours.var(ddof=1) / len(ours), theirs.var(ddof=1) / len(theirs)
    statistic = (ours.mean() - theirs.mean()) / (a + b) ** 0.5
    freedom = (a + b) ** 2 / (a**2 / (len(ours) - 1) + b**2 / (len(theirs) - 1))
    assert result.statistic == pytest.approx(statistic)
    assert result.p_value == pytest.approx(t.sf(statistic, freedom))
    assert (result.members, result.heldout) == (len(ours), len(theirs))


def test_suspects_that_score_lower_are_no_evidence() -> None:
    # The tested half contradicts the half that the score was fitted on.
    rng = np.random.default_rng(0)
    member, half = np.arange(80) % 2 == 0, np.arange(80) // 2 % 2
    features = rng.standard_normal((80, 1)) + 2.0 * np.where(half == 0, member, ~member)[:, None]
    result = infer_dataset(features, member, np.flatnonzero(half == 0), np.flatnonzero(half == 1))
    assert result.statistic < 0
    assert result.p_value > 0.99
