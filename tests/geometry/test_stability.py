"""Stability against scipy's rank correlation and plain sets."""

import math

import pytest
import scipy.stats
import torch
from torch import Tensor

from ldm_scale.geometry.influence import hutchinson_influence
from ldm_scale.geometry.stability import mask_overlap, rank_correlation, split_half_stability
from tests.geometry.decoders import normal


def overlap_of_sets(a: Tensor, b: Tensor, dropped: int) -> float:
    first, second = (set(row.argsort(stable=True)[:dropped].tolist()) for row in (a, b))
    return len(first & second) / dropped


@pytest.mark.parametrize("step", [0.0, 0.5])
def test_rank_correlation_is_scipys(step: float) -> None:
    """Also with ties, which rounding to halves makes."""
    a, noise = normal(6, 50, seed=0), normal(6, 50, seed=1)
    b = a + noise
    if step:
        a, b = ((x / step).round() * step for x in (a, b))
    expected = [scipy.stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    torch.testing.assert_close(rank_correlation(a, b), torch.tensor(expected), check_dtype=False)


def test_a_constant_row_has_no_rank_correlation() -> None:
    assert rank_correlation(torch.ones(1, 5), normal(1, 5)).isnan().all()


@pytest.mark.parametrize(("dimensions", "drop", "dropped"), [(50, 0.4, 20), (100, 0.07, 7), (7, 0.4, 3), (9, 1.0, 9)])
def test_mask_overlap_is_that_of_the_sets(dimensions: int, drop: float, dropped: int) -> None:
    a, b = normal(6, dimensions, seed=0).round(decimals=1), normal(6, dimensions, seed=1)
    expected = [overlap_of_sets(x, y, dropped) for x, y in zip(a, b, strict=True)]
    torch.testing.assert_close(mask_overlap(a, b, drop), torch.tensor(expected))


def test_opposite_orders_share_nothing() -> None:
    a = torch.arange(10.0)[None]
    assert mask_overlap(a, -a, 0.4).tolist() == [0.0]
    assert rank_correlation(a, -a).tolist() == [-1.0]


def test_identical_halves_agree_fully() -> None:
    half = normal(3, 4, 30).square()
    correlation, overlap = split_half_stability(half.repeat_interleave(2, dim=0), hutchinson_influence, 0.4)
    torch.testing.assert_close(correlation, torch.ones(4))
    assert torch.equal(overlap, torch.ones(4))


@pytest.mark.parametrize("probes", [2, 5, 8])
def test_the_halves_are_the_even_and_the_odd_probes(probes: int) -> None:
    """Of an odd number the last stands aside."""
    squares = normal(probes, 4, 30).square()
    pairs = squares[: probes // 2 * 2].unflatten(0, (-1, 2))
    even, odd = hutchinson_influence(pairs[:, 0]), hutchinson_influence(pairs[:, 1])
    correlation, overlap = split_half_stability(squares, hutchinson_influence, 0.4)
    assert torch.equal(correlation, rank_correlation(even, odd))
    assert torch.equal(overlap, mask_overlap(even, odd, 0.4))


def test_unrelated_halves_overlap_by_chance() -> None:
    correlation, overlap = split_half_stability(normal(8, 200, 100).square(), hutchinson_influence, 0.4)
    # Standard errors over 200 samples: 0.1 / sqrt(200) = 0.007, and 0.06 / sqrt(200) = 0.004.
    assert abs(correlation.mean().item()) < 0.03
    assert overlap.mean().item() == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("probes", [0, 1])
def test_one_probe_has_no_halves(probes: int) -> None:
    for found in split_half_stability(normal(probes, 4, 30).square(), hutchinson_influence, 0.4):
        assert found.shape == (4,)
        assert all(math.isnan(value) for value in found.tolist())
