"""Scores relative to a reference model: how hard a sample is falls out."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score

from ldm_scale.analysis.relative import log_ratio, relate, relate_suspects
from ldm_scale.analysis.splithalf import halves
from ldm_scale.config.audit import AnalysisConfig

CONFIG = AnalysisConfig(repeats=3, bootstrap=50)


def statistics(count: int, gain: float, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of target and reference at two timesteps: each sample's difficulty of its own, which both share.

    The target's statistic of members is lower by exp(-gain) at the second timestep alone.
    """
    rng, member = np.random.default_rng(0), np.arange(count) % 2 == 0
    difficulty = 3 * rng.normal(size=(1, count))
    logs = difficulty + noise * rng.normal(size=(2, 2, count))
    logs[0, 1] -= gain * member
    return -np.exp(logs[0]), -np.exp(logs[1]), member


def test_what_the_reference_explains_falls_out() -> None:
    """Members and others differ by N(gain, 2 noise^2) then: AUROC = Phi(gain / (2 noise)); plain has 3^2 on top."""
    target, reference, member = statistics(8000, gain=0.5, noise=0.4)
    row = relate("sima", (10, 60), target, reference, member, CONFIG, seed=0)
    choice = row.heldout_choice
    expected, plain = norm.cdf(0.5 / (2 * 0.4)), norm.cdf(0.5 / np.sqrt(2 * (3**2 + 0.4**2)))
    assert choice.timestep == 60
    # Half of 8,000 samples: a standard error of 0.007 each, and of less in the mean.
    assert choice.metrics.auroc.value == pytest.approx(expected, abs=0.015)
    assert choice.difference is not None
    assert choice.difference.auroc.value == pytest.approx(expected - plain, abs=0.02)
    assert row.reference.low < 0.5 < row.reference.high
    assert row.members_lower == pytest.approx(norm.cdf(0.5 / (np.sqrt(2) * 0.4)), abs=0.02)
    assert row.heldout_lower == pytest.approx(0.5, abs=0.03)


def test_all_three_are_judged_on_the_halves_that_did_not_choose() -> None:
    target, reference, member = statistics(200, gain=0.3, noise=0.3)
    row = relate("sima", (10, 60), target, reference, member, CONFIG, seed=5)
    scores = {"plain": target, "relative": np.log(reference / target), "reference": reference}
    found: dict[str, list[float]] = {name: [] for name in scores}
    for halving in range(3):
        choose, report = halves(member, 5, halving)
        for name, some in scores.items():
            step = int(np.argmax([roc_auc_score(member[choose], column[choose]) for column in some]))
            found[name].append(roc_auc_score(member[report], some[step, report]))
    means = {name: np.mean(aurocs) for name, aurocs in found.items()}
    choice = row.heldout_choice
    assert choice.metrics.auroc.value == pytest.approx(means["relative"], abs=1e-12)
    assert choice.difference is not None
    assert choice.difference.auroc.value == pytest.approx(means["relative"] - means["plain"], abs=1e-12)
    assert row.reference.value == pytest.approx(means["reference"], abs=1e-12)


def test_relative_to_itself_a_target_is_nothing() -> None:
    target, _, member = statistics(40, gain=1, noise=0.4)
    assert not log_ratio(target, target).any()
    row = relate("sima", (10, 60), target, target, member, CONFIG, seed=0)
    assert vars(row.heldout_choice.metrics.auroc) == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert (row.members_lower, row.heldout_lower) == (0, 0)


def test_a_statistic_of_nothing_stays_finite() -> None:
    assert np.isfinite(log_ratio(np.array([[0.0, -1.0]]), np.array([[-1.0, 0.0]]))).all()


@pytest.mark.parametrize("lower", [0, 7, 20])
def test_the_share_of_suspects_has_the_exact_binomial_interval(lower: int) -> None:
    scores = np.where(np.arange(20) < lower, 0.1, -0.1)
    row = relate_suspects("sima", scores, 0.9)
    expected = binomtest(lower, 20).proportion_ci(0.9, "exact")
    assert (row.lower, row.share.value) == (lower, lower / 20)
    assert (row.share.low, row.share.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
