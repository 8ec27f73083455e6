"""Bootstrap resamples against the laws that their counts have."""

import numpy as np
import pytest
from scipy.stats import binom, chisquare, poisson

from ldm_scale.analysis import resamples
from ldm_scale.analysis.metrics import bootstrap
from ldm_scale.analysis.resamples import PoissonTable, bootstrap_weights

MEMBER = np.random.default_rng(9).permutation(np.arange(41) < 30)


def drawn(count: int, seed: int = 0) -> np.ndarray:
    return np.concatenate([block.copy() for block in bootstrap_weights(MEMBER, count, np.random.default_rng(seed))])


@pytest.fixture(params=[False, True])
def large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the samples count as a large set."""
    monkeypatch.setattr(resamples, "EXACT", 40 if request.param else 50)
    return bool(request.param)


@pytest.mark.usefixtures("large")
def test_bootstrap_draws_as_many_of_each_side_as_there_are() -> None:
    weights = drawn(50)
    assert weights.shape == (50, 41)
    assert (weights[:, MEMBER].sum(1) == 30).all()
    assert (weights[:, ~MEMBER].sum(1) == 11).all()
    assert (weights == np.round(weights)).all()
    assert weights.min() == 0


@pytest.mark.parametrize("block", [1, 41 * 7, 41 * 49, 41 * 50, 1 << 24])
def test_the_block_size_does_not_change_the_number_of_resamples(
    block: int, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resamples, "BLOCK", block)
    sizes = [len(part) for part in bootstrap_weights(MEMBER, 50, np.random.default_rng(0))]
    assert sum(sizes) == 50
    assert 41 * max(sizes) <= max(4 * block if large else block, 41)
    assert bootstrap([np.arange(41.0)], MEMBER, 50, 0.9, 0).shape == (1, 5, 2)


def agrees(counts: np.ndarray, chances: np.ndarray) -> bool:
    """Whether counts of 0, 1, 2 and so on have these chances, by Pearson's test; rare ones are taken together."""
    expected = chances * len(counts)
    kept = int((expected >= 10).sum())
    first = int((expected >= 10).argmax())
    cell = np.clip(counts.astype(int), first, first + kept - 1) - first
    wanted = np.append(expected[first : first + kept - 1], 0)
    wanted[0] = expected[: first + 1].sum()
    wanted[-1] = len(counts) - wanted.sum()
    return bool(chisquare(np.bincount(cell, minlength=kept), wanted).pvalue > 1e-4)


# Counts that fall far short of a side's size, that fall short in general, and that are too many in half of the cases.
@pytest.mark.parametrize("short", [3, 1, 0])
def test_a_large_sets_counts_are_multinomial(short: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of any k samples of a side of m add up to Binomial(m, k / m), which is what multinomial means."""
    monkeypatch.setattr(resamples, "EXACT", 40)
    monkeypatch.setattr(resamples, "SHORT", short)
    weights = drawn(5000)
    for side in (MEMBER, ~MEMBER):
        inside = np.flatnonzero(side)
        for some in (inside[:1], inside[-1:], inside[:2], inside[::3], inside[: len(inside) // 2]):
            chances = binom.pmf(np.arange(len(inside) + 1), len(inside), len(some) / len(inside))
            assert agrees(weights[:, some].sum(axis=1), chances), (len(inside), len(some))


@pytest.mark.parametrize("mean", [0.0, 0.3, 0.97, 1.0])
def test_the_table_has_poissons_chances_to_the_last_digits(mean: float) -> None:
    """Words that decide by themselves, and those that do not by what further bits would say, add up to each chance."""
    table = PoissonTable(mean)
    chances = np.bincount(table._counts[table._counts >= 0], minlength=64) / resamples.WORDS
    for word in np.flatnonzero(table._counts < 0):
        bounds = np.clip(np.append(0, table._shares), word / resamples.WORDS, (word + 1) / resamples.WORDS)
        chances += np.diff(bounds)
    np.testing.assert_allclose(chances, poisson.pmf(np.arange(64), mean), atol=1e-15)


def test_table_draws_are_poisson_and_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resamples, "CACHED", 1000)  # pieces that are no multiples of four words either
    counts = np.empty(99_999, np.float32)
    PoissonTable(0.9).draw(counts, np.random.default_rng(1))
    assert agrees(counts, poisson.pmf(np.arange(64), 0.9))
    assert agrees(counts[:-1:2] + counts[1::2], poisson.pmf(np.arange(64), 1.8))


def test_words_that_do_not_decide_are_decided_by_more_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """With four words in place of 65,536 every other one is such."""
    monkeypatch.setattr(resamples, "WORDS", 4)
    table = PoissonTable(0.9)
    assert table._counts.tolist() == [0, -1, 1, -1]

    class Generator(np.random.Generator):
        """Words of two bits."""

        def integers(self, _: int, size: int, dtype: type) -> np.ndarray:  # type: ignore[override]
            return super().integers(4, size=4 * size).astype(np.uint16).view(dtype)

    counts = np.empty(50_000)
    table.draw(counts, Generator(np.random.PCG64(2)))
    assert agrees(counts, poisson.pmf(np.arange(64), 0.9))
