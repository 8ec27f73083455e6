"""The data set's ranking of dimensions against loops, and its independence of how rows are divided into parts."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from ldm_scale.analysis.ranking import RankingSums, influence_ranks, merge, ranking_table
from ldm_scale.attacks.spectra import rank_bins

SHAPE = (2, 3, 4)
DIMENSIONS = 24
LEAKAGE = np.linspace(0.4, 0.8, DIMENSIONS)


@pytest.fixture
def influence() -> np.ndarray:
    rng = np.random.default_rng(0)
    profile = rng.standard_normal(DIMENSIONS) - 6
    return (profile + 0.5 * rng.standard_normal((50, DIMENSIONS))).astype(np.float16)


def naive_ranks(row: np.ndarray) -> list[int]:
    """How many dimensions are lower, or equal and earlier."""
    return [sum(v < w or (v == w and j < i) for j, v in enumerate(row)) for i, w in enumerate(row)]


def numbers(table: pa.Table) -> dict[str, np.ndarray]:
    return {name: table[name].to_numpy() for name in table.column_names}


def test_ranks_count_the_lower_dimensions_with_ties_by_dimension() -> None:
    values = np.random.default_rng(1).integers(0, 5, (8, 17)).astype(np.float32)
    np.testing.assert_array_equal(influence_ranks(values), [naive_ranks(row) for row in values])


def test_half_precision_is_ranked_likewise_with_signs_and_zeros() -> None:
    values = (np.random.default_rng(1).integers(-2, 3, (8, 40)) / -8).astype(np.float16)
    values[:, ::3] = np.abs(values[:, ::3])
    assert 0 < np.signbit(values[values == 0]).mean() < 1
    np.testing.assert_array_equal(influence_ranks(values), [naive_ranks(row) for row in values])


def test_the_table_matches_a_loop_over_samples(influence: np.ndarray) -> None:
    table = numbers(ranking_table(RankingSums.of(influence, 8, 20), SHAPE, LEAKAGE))
    columns = [influence[:, i].astype(float) for i in range(DIMENSIONS)]
    ranks = np.array([naive_ranks(row) for row in influence])
    mean = [sum(c) / len(c) for c in columns]
    error = [np.std(c, ddof=1) / len(c) ** 0.5 for c in columns]
    np.testing.assert_allclose(table["mean"], mean, rtol=1e-12)
    # One-pass sums lose about six digits of the variance to cancellation: means near -6, deviations near 0.5.
    np.testing.assert_allclose(table["standard_error"], error, rtol=1e-9)
    np.testing.assert_allclose(table["mean_rank"], ranks.mean(0), rtol=1e-12)
    np.testing.assert_allclose(table["dropped_share"], (ranks < 10).mean(0), rtol=1e-12)  # ceil(0.4 * 24) = 10
    np.testing.assert_array_equal(table["rank"], naive_ranks(np.array(mean)))
    np.testing.assert_array_equal(table["leakage"], LEAKAGE)


def test_any_division_into_parts_in_any_order_gives_the_same_table(influence: np.ndarray) -> None:
    whole = numbers(ranking_table(RankingSums.of(influence, 8, 20), SHAPE, LEAKAGE))
    rng = np.random.default_rng(2)
    for parts in (1, 2, 7, 50):
        cuts = np.sort(rng.choice(np.arange(1, 50), parts - 1, replace=False))
        pieces = np.split(influence[rng.permutation(50)], cuts)
        sums = [RankingSums.of(piece, 8, 20) for piece in pieces]
        merged = numbers(ranking_table(merge([sums[i] for i in rng.permutation(parts)]), SHAPE, LEAKAGE))
        for name, values in whole.items():
            np.testing.assert_allclose(merged[name], values, rtol=1e-12, err_msg=name)


def test_merging_is_associative_and_counts_samples(influence: np.ndarray) -> None:
    a, b, c = (RankingSums.of(part, 4, 20) for part in np.split(influence, [5, 20]))
    assert ((a + b) + c).count == (a + (b + c)).count == merge([c, a, b]).count == 50


@pytest.mark.parametrize("dimensions", [37, 100, 256])
@pytest.mark.parametrize("dropped", [1, 8, 11, 19])
def test_dropped_share_is_what_the_lowest_bins_hold(dimensions: int, dropped: int) -> None:
    bins = 20
    influence = np.random.default_rng(3).standard_normal((30, dimensions)).astype(np.float16)
    table = numbers(
        ranking_table(RankingSums.of(influence, dropped, bins), (1, 1, dimensions), np.full(dimensions, 0.5))
    )
    inside = rank_bins(torch.from_numpy(influence.astype(np.float32)), bins).numpy() < dropped
    np.testing.assert_allclose(table["dropped_share"], inside.mean(0), rtol=1e-12)


def test_dimensions_are_placed_in_the_latent_row_by_row(influence: np.ndarray) -> None:
    table = numbers(ranking_table(RankingSums.of(influence, 8, 20), SHAPE, LEAKAGE))
    places = [(c, y, x) for c in range(2) for y in range(3) for x in range(4)]
    assert list(zip(table["channel"], table["row"], table["column"], strict=True)) == places
    np.testing.assert_array_equal(table["dimension"], np.arange(DIMENSIONS))


def test_one_sample_has_no_spread(influence: np.ndarray) -> None:
    table = numbers(ranking_table(RankingSums.of(influence[:1], 8, 20), SHAPE, LEAKAGE))
    np.testing.assert_allclose(table["mean"], influence[0].astype(float), rtol=1e-12)
    # The square root of the rounding error of a difference of squares near 36.
    np.testing.assert_allclose(table["standard_error"], 0, atol=1e-6)
