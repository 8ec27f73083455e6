"""Counts from sorted words against argsort, pairs and loops over thresholds; with ties of every kind."""

import numpy as np
import pytest

from ldm_scale.analysis.delong import wins
from ldm_scale.analysis.metrics import Roc, corners, evaluate
from ldm_scale.analysis.ranks import Ranks, _sort


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
    ours, theirs = wins(scores[:, None], member)
    np.testing.assert_array_equal(ours[:, 0], expected.sum(axis=1))
    np.testing.assert_array_equal(theirs[:, 0], expected.sum(axis=0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_auroc_among_a_subset_is_that_of_the_subset_alone(kind: str) -> None:
    scores, member = draw(kind)
    subsets = np.random.default_rng(0).random((9, len(scores))) < 0.5
    found = Ranks(scores, member).aurocs(subsets)
    for value, subset in zip(found, subsets, strict=True):
        expected = pairs(scores[subset], member[subset])
        assert value == expected.sum() / expected.size


@pytest.mark.parametrize("count", [2, 7, 8, 9, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_rates_of_corners_are_those_of_the_whole_curve(kind: str, count: int) -> None:
    scores, member = draw(kind, count)
    member[:2] = True, False
    found, whole = corners(Ranks(scores, member)), Roc(scores, member).curve()
    np.testing.assert_array_equal(found.rates(), whole.rates())
    assert found.paper_tpr_below(0.01) == whole.paper_tpr_below(0.01)
    np.testing.assert_allclose(evaluate(scores, member), whole.all()[0], rtol=0, atol=1e-13)
