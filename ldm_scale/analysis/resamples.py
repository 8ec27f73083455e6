"""Stratified bootstrap resamples (Efron 1979): how often each sample is drawn, members and held-out samples apart."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int, Int8, Real, UInt8
from scipy.stats import poisson

# Elements of one block of weights: 128 MB of float64, and half of that in the bytes of large sets.
BLOCK = 1 << 24
# Up to so many samples a resample is one multinomial draw of a side; beyond, a draw of each sample.
EXACT = 20_000
# Resamples of large sets that are counted together: those of a few thousand cells fit a processor's cache.
TOGETHER = 16
# Standard deviations by which the sum of a large set's counts falls short at first.
SHORT = 3
# Draws of which a processor's cache holds all that is made of them.
CACHED = 1 << 15
# What 16 random bits may be.
WORDS = 1 << 16


def is_large(samples: int) -> bool:
    """Whether the resamples of so many samples are drawn, and their curves computed, as those of large sets are."""
    return samples > EXACT


def bootstrap_weights(
    member: Bool[np.ndarray, " n"], resamples: int, rng: np.random.Generator
) -> Iterator[Real[np.ndarray, "r n"]]:
    """How often each sample is drawn in each resample, members and held-out resampled apart; in blocks of rows.

    A block is to be done with before the next one is asked for, which may take its place in memory.

    Args:
        resamples: rows of all blocks together.
        rng: where the draws come from.
    """
    if is_large(len(member)):
        yield from _large_weights(member, resamples, rng)
        return
    rows = max(1, min(resamples, BLOCK // len(member)))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        weights = np.zeros((count, len(member)))
        for side in (member, ~member):
            size = int(side.sum())
            weights[:, side] = rng.multinomial(size, np.full(size, 1 / size), size=count)
        yield weights


class PoissonTable:
    """Independent Poisson counts from 16 random bits each, and a few more if these do not decide; below 64."""

    def __init__(self, mean: float) -> None:
        """Tabulate.

        Args:
            mean: from 0 to 1.
        """
        self._shares = poisson.cdf(np.arange(64), mean)
        least = np.searchsorted(self._shares, np.arange(WORDS + 1) / WORDS)
        # What a word decides; -1 is nothing.
        self._counts = np.where(least[:-1] == least[1:], least[1:], -1)

    def draw(self, counts: Real[np.ndarray, " s"], rng: np.random.Generator) -> None:
        """Fill an array with counts."""
        table = self._counts.astype(counts.dtype)
        for start in range(0, len(counts), CACHED):
            piece = counts[start : start + CACHED]
            words = rng.integers(1 << 64, size=-(-len(piece) // 4), dtype=np.uint64).view(np.uint16)[: len(piece)]
            table.take(words, out=piece, mode="clip")
            open_ = np.flatnonzero(piece < 0)
            piece[open_] = np.searchsorted(self._shares, (words[open_] + rng.random(len(open_))) / WORDS)


def _large_weights(
    member: Bool[np.ndarray, " n"], resamples: int, rng: np.random.Generator
) -> Iterator[UInt8[np.ndarray, "r n"]]:
    """The same by counts of each sample, faster for large sets: in bytes, and columns are rows in memory.

    Independent Poisson counts are multinomial, given their sum. Here their mean is a little below one, and draws of
    single samples fill a side up to its size: two multinomial counts of the same shares add up to one. Counts of a
    side that has too many already, one in a thousand, are drawn again.
    """
    samples = len(member)
    sides = [np.flatnonzero(side) for side in (member, ~member)]
    table = PoissonTable(max(0.0, 1 - SHORT / min(map(len, sides)) ** 0.5))
    rows = max(1, min(TOGETHER, 4 * BLOCK // samples))
    # Sums of up to 2^24 are exact in single precision.
    inside: np.ndarray = np.stack([member, ~member]).astype(np.float32 if samples < 1 << 24 else np.float64)
    memory = np.empty(samples * rows, np.int8)
    for start in range(0, resamples, rows):
        counts = memory[: samples * min(rows, resamples - start)]
        table.draw(counts, rng)
        weights = counts.reshape(samples, -1)
        for side, sums in zip(sides, inside @ weights, strict=True):
            for column in np.flatnonzero(sums > len(side)):
                weights[side, column] = again = _few_enough(len(side), table, rng)
                sums[column] = again.sum()
            _fill(weights, side, len(side) - sums.astype(np.int64), rng)
        yield weights.T.view(np.uint8)


def _few_enough(most: int, table: PoissonTable, rng: np.random.Generator) -> Int8[np.ndarray, " m"]:
    """Counts of so many samples whose sum is not more."""
    counts = np.full(most, 2, np.int8)
    while counts.sum() > most:
        table.draw(counts, rng)
    return counts


def _fill(
    weights: Int8[np.ndarray, "n r"],
    side: Int[np.ndarray, " m"],
    missing: Int[np.ndarray, " r"],
    rng: np.random.Generator,
) -> None:
    """Add so many draws of one sample each to every resample's counts of one side."""
    drawn = side[rng.integers(len(side), size=int(missing.sum()))]
    column = np.repeat(np.arange(len(missing)), missing)
    np.add.at(weights.reshape(-1), drawn * weights.shape[1] + column, np.int8(1))  # of one type: ten times faster
