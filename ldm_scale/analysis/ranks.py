"""Samples sorted by a score, and what counts of members and held-out samples say of it: every number is exact."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from math import ceil

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8, UInt64

# PAIRS[256 a + b]: pairs of a bit of byte a and a later bit of byte b, the first bit being the highest.
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.int64)
PAIRS = ((_BITS.cumsum(axis=1) - _BITS) @ _BITS.T).astype(np.uint8).ravel()
# Eight bytes, the first of them the lowest; times EARLIER, each byte has the sum of those before it.
WORD = np.dtype("<u8")
EARLIER = WORD.type(0x0101010101010100)
# Scores of which a processor's cache holds all that is made of them.
CACHED = 1 << 13


class Subsets:
    """Subsets of the samples: eight of them are the bits of one byte a sample, which are put in order together."""

    def __init__(self, subsets: Bool[np.ndarray, "r n"]) -> None:
        self._count = len(subsets)
        self._bytes = np.packbits(subsets, axis=0, bitorder="little")

    def ordered(self, order: Int[np.ndarray, " n"]) -> Iterator[UInt8[np.ndarray, " n"]]:
        """Each subset, its samples in this order; zero is outside."""
        for number in range(self._count):
            if number % 8 == 0:
                some = self._bytes[number // 8].take(order)
            yield some & np.uint8(1 << number % 8)


class Ranks:
    """Samples by score, the highest first; of equal scores, members first.

    A member wins over the held-out samples behind it. Of equal scores it wins half, so that half of the pairs of each
    group of them are taken off again. A cut of so many samples has these above a threshold; none goes through a group.
    """

    def __init__(self, scores: Float[np.ndarray, " n"], member: Bool[np.ndarray, " n"]) -> None:
        """Sort."""
        self._order, self._tied, self._starts = _sort(scores, member)
        # The cuts before and after each group.
        self._begin = self._tied[self._starts]
        self._end = self._begin + np.diff(self._starts, append=len(self._tied))
        self._ours = member.take(self._order)
        self._packed = _pack(self._ours)
        # Members up to the end of each word.
        self._sums = np.cumsum(np.bitwise_count(self._packed), dtype=np.int64)
        self._members = int(self._sums[-1])
        self._heldout = len(self._ours) - self._members

    def metrics(self) -> Float[np.ndarray, " 5"]:
        """The metrics of metrics.NAMES."""
        rates = self.tpr_at(0.01), self.tpr_at(0.001), self.paper_tpr_at(0.01)
        return np.array([self.auroc(), self.asr(), *rates])

    def auroc(self) -> float:
        """P(member's score > held-out's) + P(equal) / 2, a ratio of counts.

        >>> Ranks(np.array([3.0, 2.0, 1.0, 1.0]), np.array([True, False, True, False])).auroc()
        0.625
        """
        return self._auroc(np.ones(len(self._ours), dtype=np.uint8))

    def aurocs(self, subsets: Subsets) -> Float[np.ndarray, " r"]:
        """The AUROC among each subset of the samples; a subset needs one sample of each side.

        >>> ranks = Ranks(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False]))
        >>> ranks.aurocs(Subsets(np.array([[True, True, True, True], [False, True, True, False]])))
        array([0.75, 0.  ])
        """
        return np.array([self._auroc(inside) for inside in subsets.ordered(self._order)])

    def _auroc(self, inside: UInt8[np.ndarray, " n"]) -> float:
        some = _pack(inside)
        ours, theirs = some & self._packed, some & ~self._packed
        # Pairs in one byte by a table, in one word by its bytes' counts, and in different words by theirs.
        first, second = ours.view(np.uint8), theirs.view(np.uint8)
        wins = int(PAIRS.take(first.astype(np.intp) << 8 | second).sum(dtype=np.int64))
        earlier = (np.bitwise_count(first).view(WORD) * EARLIER).view(np.uint8)
        wins += int(np.multiply(earlier, np.bitwise_count(second), dtype=np.uint16).sum(dtype=np.int64))
        members, heldout = np.cumsum(np.bitwise_count(ours), dtype=np.int64), np.bitwise_count(theirs)
        wins += int((members[:-1] * heldout[1:]).sum())
        ours, tied = self._ours[self._tied], inside[self._tied] > 0
        equal = int((self._by_group(tied & ours) * self._by_group(tied & ~ours)).sum())
        # Integers, which Python divides with one rounding.
        return (2 * wins - equal) / (2 * int(members[-1]) * int(heldout.sum(dtype=np.int64)))

    def _by_group(self, tied: Bool[np.ndarray, " k"]) -> Int[np.ndarray, " g"]:
        """How many of each group of equal scores are marked."""
        return np.add.reduceat(tied.astype(np.int64), self._starts)

    def asr(self) -> float:
        """Attack success rate: max over thresholds of (TPR + 1 - FPR) / 2, in [0.5, 1]; 0.5 is chance.

        >>> Ranks(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False])).asr()
        0.75
        """
        is_cut = np.ones(len(self._ours) + 1, dtype=bool)
        is_cut[self._tied] = False
        is_cut[self._begin] = True
        ends = np.minimum(np.arange(64, 64 * len(self._sums) + 64, 64), len(self._ours))
        before = np.append(0, self._sums[:-1])
        # TPR - FPR in units of 1 / (members * held-out samples). Only words are looked into that may hold the highest:
        # if all their members came first.
        reached = np.append(0, self._sums * self._heldout - (ends - self._sums) * self._members)
        most = reached[:-1] + (self._sums - before) * self._heldout
        kept = np.flatnonzero(most >= reached[1:].max(initial=0, where=is_cut[ends]))
        cut = 64 * kept[:, None] + np.arange(1, 65)
        inside = np.unpackbits(self._packed[kept, None].view(np.uint8), axis=1)
        ours = before[kept, None] + np.cumsum(inside, axis=1)
        theirs = cut - ours
        rates = (ours / self._members + 1 - theirs / self._heldout) / 2
        return float(rates.max(initial=0.5, where=is_cut.take(cut, mode="clip") & (cut < len(is_cut))))

    def tpr_at(self, fpr: float) -> float:
        """TPR at the lowest threshold whose FPR is at most `fpr`, a share in [0, 1]; not interpolated.

        >>> Ranks(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False])).tpr_at(0.1)
        0.5
        """
        allowed = int((fpr + 1e-12) * self._heldout)
        cut = bisect_right(range(len(self._ours) + 1), allowed, key=lambda cut: cut - self._members_above(cut)) - 1
        return self._members_above(self._around(cut)[0]) / self._members

    def paper_tpr_at(self, fpr: float) -> float:
        """The same with held-out samples as positives, as the paper's scripts have it.

        The share of held-out samples below the highest threshold that has at most a share `fpr` of members below it.

        >>> Ranks(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False])).paper_tpr_at(0.5)
        1.0
        """
        return self._heldout_below(int((fpr + 1e-12) * self._members))

    def paper_tpr_below(self, fpr: float) -> float:
        """The same with strictly less than a share `fpr` of members below it, as the paper's tables have it.

        >>> Ranks(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False])).paper_tpr_below(0.5)
        0.5
        """
        return self._heldout_below(ceil((fpr - 1e-12) * self._members) - 1)

    def _heldout_below(self, allowed: int) -> float:
        """The share of held-out samples below the highest threshold with so many members below it, or fewer."""
        cut = bisect_left(range(len(self._ours) + 1), self._members - allowed, key=self._members_above)
        cut = self._around(cut)[1]
        return 1 - (cut - self._members_above(cut)) / self._heldout

    def _members_above(self, cut: int) -> int:
        word = cut // 64
        return int(self._sums[word - 1] if word else 0) + int(np.count_nonzero(self._ours[64 * word : cut]))

    def _around(self, cut: int) -> tuple[int, int]:
        """The cuts before and after the group of equal scores that a cut would go through; twice itself if none."""
        group = int(np.searchsorted(self._begin, cut)) - 1
        if group >= 0 and cut < self._end[group]:
            return int(self._begin[group]), int(self._end[group])
        return cut, cut

    def wins(self) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " h"]]:
        """How many held-out samples each member is above, and how many members are above each held-out sample.

        Equal scores count half. Sorting takes O(n log n), while the pairs are O(n^2) (Sun & Xu, "Fast Implementation of
        DeLong's Algorithm", 2014).

        >>> ranks = Ranks(np.array([3.0, 1.0, 1.0, 2.0]), np.array([True, True, False, False]))
        >>> ranks.wins()
        (array([2. , 0.5]), array([1.5, 1. ]))
        """
        ours, theirs = np.flatnonzero(self._ours), np.flatnonzero(~self._ours)
        above = np.empty(len(self._ours))
        above[ours] = ours - np.arange(len(ours))
        above[theirs] = theirs - np.arange(len(theirs))
        tied = self._ours[self._tied]
        members, heldout = self._by_group(tied), self._by_group(~tied)
        sizes = self._end - self._begin
        equal = np.where(tied, np.repeat(heldout, sizes), -np.repeat(members, sizes))
        above[self._tied] += equal / 2
        found = np.empty(len(above))
        found[self._order] = above
        member = np.empty(len(above), dtype=bool)
        member[self._order] = self._ours
        return len(theirs) - found[member], found[~member]


def _pack(marks: Bool[np.ndarray, " n"] | UInt8[np.ndarray, " n"]) -> UInt64[np.ndarray, " w"]:
    """Which marks are not zero: 64 samples a word, the last one filled up with zeros."""
    packed = np.zeros(-(-len(marks) // 64) * 8, dtype=np.uint8)
    packed[: -(-len(marks) // 8)] = np.packbits(marks)
    return packed.view(WORD)


def _sort(
    scores: Float[np.ndarray, " n"], member: Bool[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " k"], Int[np.ndarray, " g"]]:
    """Sort: the order of Ranks, its places with a score that others have, too, and where in these a score begins.

    Sorting words takes a quarter of the time of argsort. A word is a number that falls as the score rises, and the
    sample in place of its last bits. Samples that only these bits told apart are sorted by themselves.
    """
    low = len(scores).bit_length()
    words = np.empty(len(scores), dtype=np.int64)
    for start in range(0, len(words), CACHED):
        words[start : start + CACHED] = _words(scores[start : start + CACHED], low)
        words[start : start + CACHED] |= np.arange(start, min(start + CACHED, len(words)))
    words.sort()
    near = _near(words, low)
    numbers = words[near] >> low
    order = words
    order &= (1 << low) - 1
    rows = order[near]
    rows = rows[np.lexsort((~member[rows], -scores[rows], numbers))]
    order[near] = rows
    values = scores[rows]
    starts = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(rows)])
    sizes = np.diff(starts, append=len(rows))
    several = sizes > 1
    tied = near[np.repeat(several, sizes)]
    return order, tied, np.cumsum(sizes[several]) - sizes[several]


def _near(words: Int[np.ndarray, " n"], low: int) -> Int[np.ndarray, " k"]:
    """The places of sorted words that are those of a neighbour but for their last `low` bits."""
    same = np.zeros(len(words) + 1, dtype=bool)
    for start in range(0, len(words) - 1, CACHED):
        some = words[start : start + CACHED + 1]
        same[start + 1 : start + len(some)] = (some[1:] ^ some[:-1]) >> low == 0
    return np.flatnonzero(same[1:] | same[:-1])


def _words(scores: Float[np.ndarray, " n"], low: int) -> Int[np.ndarray, " n"]:
    """Numbers that fall as the score rises, the last `low` bits of them zero."""
    words = np.subtract(0.0, scores, dtype=np.float64).view(np.int64)  # 0.0 - 0.0 has no sign
    words ^= words >> 63 & np.iinfo(np.int64).max  # negative floats run backwards
    words &= -1 << low
    return words
