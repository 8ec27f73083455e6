"""Labels that mean nothing must look so in every honest result, and planted signals must be found.

A count of successes in n independent runs is to reach what a binomial(n, nominal) does in 99.95% of cases; the seeds
are fixed. Bounds that are means over halvings are wider than they must be, so that the count is not bounded from above.
"""

import functools

import numpy as np
import pytest
from scipy.stats import binom, kstest, ttest_ind

from ldm_scale.analysis.adjusted import adjusted_scorer
from ldm_scale.analysis.combined import LogOdds, cross_fit
from ldm_scale.analysis.inference import infer_dataset
from ldm_scale.analysis.metrics import aurocs
from ldm_scale.analysis.splithalf import Scorer, choosing, judge
from tests.analysis.simulation import STRUCTURES, Simulated, simulate
from tests.analysis.spectra import features_of
from tests.analysis.splits import fixed

NOMINAL = 0.95
# (value, low, high) of an AUROC.
Interval = tuple[float, float, float]


def judged(scorer: Scorer, member: np.ndarray, seed: int) -> Interval:
    result = judge({"it": scorer}, member, 4, 100, NOMINAL, seed)["it"]
    return float(result.values[0]), *result.intervals[0].tolist()


def fitted(data: Simulated) -> Scorer:
    """The combined score: a classifier fitted on the choosing half."""
    features = features_of(data.spectra)

    def score(_: int, choose: np.ndarray, report: np.ndarray) -> tuple[int, np.ndarray]:
        return 0, LogOdds.fit(features[choose], data.member[choose]).scores(features[report])

    return score


def combined(data: Simulated, seed: int) -> Interval:
    return judged(fitted(data), data.member, seed)


def adjusted(data: Simulated, seed: int) -> Interval:
    scores = [*-np.exp(data.log_statistics.T)]
    scorer = adjusted_scorer(scores, data.geometry, data.member, seed)
    return judged(scorer, data.member, seed)


def chosen(data: Simulated, seed: int) -> Interval:
    return judged(fixed(data.candidates, data.member), data.member, seed)


def crossed(data: Simulated, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The cross-fitted log odds of three halvings, and the choosing halves."""
    chosen = choosing(data.member, 3, seed)
    return cross_fit(features_of(data.spectra), data.member, chosen, seed), chosen


def p_values(data: Simulated, seed: int) -> tuple[float, float]:
    """Of one half alone, and of all of them."""
    odds, chosen = crossed(data, seed)
    report = ~chosen[0]
    suspects, others = odds[0, report & data.member], odds[0, report & ~data.member]
    first = ttest_ind(suspects, others, equal_var=False, alternative="greater").pvalue
    return first, infer_dataset(odds, chosen, data.member).p_value


RESULTS = {"combined": combined, "adjusted": adjusted, "chosen": chosen}
RUNS = 25


@functools.cache
def exchangeable(result: str) -> np.ndarray:
    """(value, low, high) of every run, the same number of runs in each structure."""
    return np.array(
        [
            RESULTS[result](simulate(seed, **structure), seed)
            for structure in STRUCTURES.values()
            for seed in range(RUNS)
        ]
    )


@pytest.mark.parametrize("result", RESULTS)
def test_the_interval_holds_a_half_as_often_as_it_says(result: str) -> None:
    _, low, high = exchangeable(result).T
    covered = int(((low <= 0.5) & (high >= 0.5)).sum())
    assert covered >= binom.ppf(0.0005, len(low), NOMINAL)


@pytest.mark.parametrize("result", RESULTS)
def test_the_mean_auroc_of_meaningless_labels_is_a_half(result: str) -> None:
    values = exchangeable(result)[:, 0]
    assert np.mean(values) == pytest.approx(0.5, abs=4 * np.std(values) / len(values) ** 0.5)


def test_choosing_and_reporting_on_the_same_samples_shows_a_signal_where_there_is_none() -> None:
    # So the two tests above can fail: the best candidate on all samples is far from a half.
    data = [simulate(seed, **structure) for structure in STRUCTURES.values() for seed in range(10)]
    best = [aurocs(d.candidates, d.member).max() for d in data]
    assert np.mean(best) > 0.5 + 4 * np.std(best) / len(best) ** 0.5
    assert np.mean(best) > 0.55


def test_p_values_of_meaningless_labels_are_small_no_more_often_than_they_say() -> None:
    simulated = [p_values(simulate(s, 60, **structure), s) for structure in STRUCTURES.values() for s in range(30)]
    first, aggregated = np.transpose(simulated)
    assert kstest(first, "uniform").pvalue > 0.001
    for level in (0.05, 0.2):
        assert (aggregated <= level).sum() <= binom.ppf(0.9995, len(aggregated), level)


@pytest.mark.parametrize("result", RESULTS)
def test_a_planted_signal_exceeds_chance(result: str) -> None:
    for seed in range(3):
        value, low, _ = RESULTS[result](simulate(seed, 400, shared=0.2, geometry=0.1, signal=0.8), seed)
        assert value > 0.6
        assert low > 0.5


def test_dataset_inference_finds_a_planted_signal() -> None:
    assert all(p_values(simulate(seed, 400, shared=0.2, signal=0.5), seed)[1] < 1e-3 for seed in range(3))
