"""Counts from sorted words against argsort, pairs and loops over thresholds; with ties of every kind."""

import numpy as np
import pytest

from ldm_scale.analysis.metrics import Roc, evaluate
from ldm_scale.analysis.ranks import Ranks, Subsets, _sort


def draw(kind: str, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Scores of both signs, and who is a member."""
    rng = np.random.default_rng(3)
    scores = rng.standard_normal(count)
    changed = {
        "distinct": scores,
        "few values": np.round(2 * scores),
        "some ties": np.round(scores, 2),
        "last bits": 1 + np.arange(count)[::-1] // 3 * 2.0**-52,
        "all equal": np.zeros(count),
        "zeros of both signs": np.where(scores > 1, scores, np.copysign(0.0, scores)),
        "far apart": np.sign(scores) * np.exp(200 * np.abs(scores)),
        "single precision": scores.astype(np.float32),
    }[kind]
    return changed, rng.random(count) < 0.4


KINDS = (
    "distinct", "few values", "some ties", "last bits", "all equal", "zeros of both signs", "far apart",
    "single precision",
)  # fmt: skip


def pairs(scores: np.ndarray, member: np.ndarray) -> np.ndarray:
    """What each member (row) wins over each held-out sample (column)."""
    ours, theirs = scores[member][:, None], scores[~member][None]
    return (ours > theirs) + (ours == theirs) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_is_that_of_the_scores_with_members_before_their_equals(kind: str) -> None:
    scores, member = draw(kind)
    order, tied, starts = _sort(scores, member)
    assert sorted(order) == list(range(len(scores)))
    expected = np.lexsort((~member, -scores))
    np.testing.assert_array_equal(scores[order], scores[expected])
    np.testing.assert_array_equal(member[order], member[expected])
    _, sizes = np.unique(-scores, return_counts=True)
    ends = np.cumsum(sizes)
    groups = [np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True) if size > 1]
    assert tied.tolist() == [place for group in groups for place in group]
    assert tied[starts].tolist() == [group[0] for group in groups]


@pytest.mark.parametrize("kind", KINDS)
def test_aurocs_and_wins_are_counts_of_pairs(kind: str) -> None:
    scores, member = draw(kind)
    expected = pairs(scores, member)
    assert Ranks(scores, member).auroc() == expected.sum() / expected.size
    ours, theirs = Ranks(scores, member).wins()
    np.testing.assert_array_equal(ours, expected.sum(axis=1))
    np.testing.assert_array_equal(theirs, expected.sum(axis=0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_auroc_among_a_subset_is_that_of_the_subset_alone(kind: str) -> None:
    scores, member = draw(kind)
    subsets = np.random.default_rng(0).random((9, len(scores))) < 0.5  # more than a byte holds
    found = Ranks(scores, member).aurocs(Subsets(subsets))
    for value, subset in zip(found, subsets, strict=True):
        expected = pairs(scores[subset], member[subset])
        assert value == expected.sum() / expected.size


@pytest.mark.parametrize("count", [2, 7, 8, 9, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_rates_are_those_of_the_whole_curve_to_the_last_bit(kind: str, count: int) -> None:
    scores, member = draw(kind, count)
    member[:2] = True, False
    ranks, curve = Ranks(scores, member), Roc(scores, member).curve()
    assert ranks.asr() == curve.asr()
    for level in (0.0, 0.001, 0.01, 0.1, 0.5, 1.0):
        assert ranks.tpr_at(level) == curve.tpr_at(level)
        assert ranks.paper_tpr_at(level) == curve.paper_tpr_at(level)
    np.testing.assert_allclose(evaluate(scores, member), curve.all()[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_the_strict_rate_is_a_loops_over_thresholds(kind: str) -> None:
    scores, member = draw(kind)
    for level in (0.01, 30 / member.sum(), 1.0):
        below = [scores < threshold for threshold in (*scores, np.inf)]
        expected = max(some[~member].mean() for some in below if some[member].mean() < level - 1e-12)
        assert Ranks(scores, member).paper_tpr_below(level) == pytest.approx(expected, abs=1e-12)


def test_the_rate_of_success_of_scores_that_hardly_tell_is_found_among_near_ones() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores, member = np.round(rng.standard_normal(2000), 2 + rng.integers(9)), rng.random(2000) < 0.5
        assert Ranks(scores, member).asr() == Roc(scores, member).curve().asr()
