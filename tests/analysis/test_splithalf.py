"""Repeated split-half against a loop over its halvings; the halves themselves."""

import numpy as np
import pytest

from ldm_scale.analysis.delong import delong
from ldm_scale.analysis.metrics import Roc, bootstrap, evaluate
from ldm_scale.analysis.resamples import bootstrap_weights
from ldm_scale.analysis.splithalf import halves, judge, judge_halving, over_halvings
from tests.analysis.splits import fixed


def draw(seed: int, count: int = 80, candidates: int = 6, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Normal scores; the third candidate is higher by `shift` for members."""
    rng = np.random.default_rng(seed)
    member = rng.permutation(np.arange(count) % 2 == 0)
    scores = rng.standard_normal((count, candidates))
    scores[:, 2] += shift * member
    return scores, member


@pytest.mark.parametrize(("members", "heldout"), [(4, 4), (10, 7), (25, 40)])
def test_halves_are_disjoint_complete_and_stratified(members: int, heldout: int) -> None:
    member = np.random.default_rng(0).permutation(np.repeat([True, False], [members, heldout]))
    choose, report = halves(member, 3, 1)
    assert sorted([*choose, *report]) == list(range(members + heldout))
    assert (int(member[choose].sum()), int((~member[choose]).sum())) == (members // 2, heldout // 2)
    assert choose.tolist() == sorted(choose)
    assert report.tolist() == sorted(report)


def test_halves_are_seeded_and_mix_the_samples() -> None:
    member = np.arange(100) % 2 == 0
    first = halves(member, 0, 0)[0]
    np.testing.assert_array_equal(first, halves(member, 0, 0)[0])
    assert not np.array_equal(first, halves(member, 1, 0)[0])
    assert not np.array_equal(first, halves(member, 0, 1)[0])
    # A random half of 100 has about 25 of the first 50 (standard deviation 2.5); four of them either way.
    assert 15 <= (first < 50).sum() <= 35


def test_it_is_the_mean_over_halvings_of_what_the_other_half_says() -> None:
    scores, member = draw(0, shift=0.4)
    result = judge({"plain": fixed(scores[:, :1], member), "best": fixed(scores, member)}, member, 4, 50, 0.9, 7)
    values, intervals, differences, exact, paired, picks = [], [], [], [], [], []
    for halving in range(4):
        choose, report = halves(member, 7, halving)
        labels = member[report]
        found = max(range(6), key=lambda c: evaluate(scores[choose, c], member[choose])[0])
        picks.append(found)
        values.append(evaluate(scores[report, found], labels))
        exact.append(delong(scores[report, found][:, None], labels).intervals(0.9)[0])
        paired.append(delong(scores[report][:, [found, 0]], labels).difference(0, 1, 0.9)[1:])
        weights = np.concatenate(list(bootstrap_weights(labels, 50, np.random.default_rng([7, halving, 1]))))
        ours, plain = (Roc(scores[report, c], labels).curve(weights).all() for c in (found, 0))
        intervals.append(np.quantile(ours, [0.05, 0.95], axis=0).T)
        differences.append(np.quantile(ours - plain, [0.05, 0.95], axis=0).T)
    found = result["best"]
    assert found.picks.tolist() == picks
    np.testing.assert_allclose(found.values, np.mean(values, axis=0))
    np.testing.assert_allclose(found.intervals, np.mean(intervals, axis=0))
    np.testing.assert_allclose(found.auroc, np.mean(exact, axis=0))
    np.testing.assert_allclose(found.auroc_difference, np.mean(paired, axis=0), atol=1e-12)
    np.testing.assert_allclose(found.difference, found.values - result["plain"].values, atol=1e-12)
    np.testing.assert_allclose(found.difference_intervals, np.mean(differences, axis=0), atol=1e-12)
    assert found.agreement == picks.count(found.pick) / 4
    assert not result["plain"].difference_intervals.any()


def test_families_that_are_judged_together_are_judged_as_each_alone() -> None:
    """On the same resamples, each with a baseline of its own, a halving at a time."""
    scores, member = draw(3, shift=0.4)
    every = fixed(scores, member)
    families = [[fixed(scores[:, :1], member), every], [every], [every, fixed(scores[:, 1:2], member)]]
    halvings = [judge_halving(families, member, halving, 20, 0.9, 7) for halving in range(3)]
    for number, family in enumerate(families):
        found = over_halvings([halving[number] for halving in halvings])
        expected = judge({str(i): scorer for i, scorer in enumerate(family)}, member, 3, 20, 0.9, 7)
        for one, alone in zip(found, expected.values(), strict=True):
            for name, value in vars(alone).items():
                np.testing.assert_array_equal(getattr(one, name), value, err_msg=name)
    assert [len(halving[0][0].curve) > 0 for halving in halvings] == [True, False, False]


def test_a_clear_winner_is_always_chosen() -> None:
    scores, member = draw(1, 400, shift=1.5)
    result = judge({"best": fixed(scores, member)}, member, 10, 50, 0.95, 0)["best"]
    assert (result.pick, result.agreement) == (2, 1.0)
    # Each sample is reported on in half of the halvings: the mean is near the AUROC of all samples.
    assert result.values[0] == pytest.approx(evaluate(scores[:, 2], member)[0], abs=0.03)
    assert (result.intervals[:, 0] <= result.values).all()
    assert (result.values <= result.intervals[:, 1]).all()


def test_pairing_narrows_the_interval_of_a_difference_of_alike_scores() -> None:
    scores, member = draw(19, 400, 3)
    other = scores + 0.2 * np.random.default_rng(0).standard_normal(scores.shape)
    paired = judge(
        {"plain": fixed(scores[:, :1], member), "other": fixed(other[:, :1], member)}, member, 2, 300, 0.9, 0
    )["other"]
    alone = bootstrap([other[:, 0]], member, 300, 0.9, 0)
    assert np.ptp(paired.difference_intervals[0]) < np.ptp(alone[0, 0]) / 2


def test_the_result_depends_on_the_seed_only() -> None:
    scores, member = draw(2)
    first, again, other = (
        judge({"best": fixed(scores, member)}, member, 3, 20, 0.95, seed)["best"] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.intervals, again.intervals)
    assert not np.array_equal(first.values, other.values)
