"""Samples sorted by a score, and what counts of members and held-out samples say of it: every number is exact."""

import numpy as np
from jaxtyping import Bool, Float, Int

# PAIRS[256 a + b]: pairs of a bit of byte a and a later bit of byte b, the first bit being the highest.
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.int64)
PAIRS = ((_BITS.cumsum(axis=1) - _BITS) @ _BITS.T).astype(np.uint8).ravel()


class Ranks:
    """Samples by score, the highest first; of equal scores, members first.

    A member wins over the held-out samples behind it. Of equal scores it wins half, so that half of the pairs of each
    group of them are taken off again.
    """

    def __init__(self, scores: Float[np.ndarray, " n"], member: Bool[np.ndarray, " n"]) -> None:
        """Sort.

        Args:
            scores: finite; higher means member.
            member: who is a member.
        """
        self._order, self._tied, self._starts = _sort(scores, member)
        self._ours = member[self._order]

    def auroc(self) -> float:
        """P(member's score > held-out's) + P(equal) / 2, a ratio of counts; it needs one sample of each side.

        >>> Ranks(np.array([3.0, 2.0, 1.0, 1.0]), np.array([True, False, True, False])).auroc()
        0.625
        """
        return self._auroc(self._ours, ~self._ours)

    def aurocs(self, subsets: Bool[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
        """The AUROC among each subset of the samples; a subset needs one sample of each side.

        >>> ranks = Ranks(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False]))
        >>> ranks.aurocs(np.array([[True, True, True, True], [False, True, True, False]]))
        array([0.75, 0.  ])
        """
        inside = (subset[self._order] for subset in subsets)
        return np.array([self._auroc(some & self._ours, some & ~self._ours) for some in inside])

    def _auroc(self, ours: Bool[np.ndarray, " n"], theirs: Bool[np.ndarray, " n"]) -> float:
        # Eight samples at a time: pairs in one byte by a table, and in different ones by counts.
        first, second = np.packbits(ours), np.packbits(theirs)
        members, heldout = np.bitwise_count(first), np.bitwise_count(second)
        before = np.cumsum(members, dtype=np.int64)
        wins = int(PAIRS.take(first.astype(np.intp) << 8 | second).sum(dtype=np.int64))
        wins += int((before[:-1] * heldout[1:]).sum())
        equal = int((self._by_group(ours) * self._by_group(theirs)).sum())
        # Integers, which Python divides with one rounding.
        return (2 * wins - equal) / (2 * int(before[-1]) * int(heldout.sum(dtype=np.int64)))

    def _by_group(self, ordered: Bool[np.ndarray, " n"]) -> Int[np.ndarray, " g"]:
        """How many of each group of equal scores are marked."""
        return np.add.reduceat(ordered[self._tied].astype(np.int64), self._starts)

    def corners(self) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"]]:
        """FPR and TPR at the origin, and at the threshold of each member's score: the ROC curve's upper left corners.

        >>> Ranks(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False])).corners()
        (array([0. , 0. , 0.5]), array([0. , 0.5, 1. ]))
        """
        place = np.flatnonzero(self._ours)
        ours = np.arange(1, len(place) + 1)
        theirs = place - np.arange(len(place))
        # A threshold at a score lets all samples of this score through.
        members, heldout = self._by_group(self._ours), self._by_group(~self._ours)
        tied = np.searchsorted(place, self._tied[self._ours[self._tied]])
        ours[tied] = np.repeat(np.searchsorted(place, self._tied[self._starts]) + members, members)
        theirs[tied] += np.repeat(heldout, members)
        points = (theirs / (len(self._ours) - len(place)), ours / len(place))
        return np.append(0.0, points[0]), np.append(0.0, points[1])

    def wins(self) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " h"]]:
        """How many held-out samples each member is above, and how many members are above each held-out sample."""
        ours, theirs = np.flatnonzero(self._ours), np.flatnonzero(~self._ours)
        above = np.empty(len(self._ours))
        above[ours] = ours - np.arange(len(ours))
        above[theirs] = theirs - np.arange(len(theirs))
        members, heldout = self._by_group(self._ours), self._by_group(~self._ours)
        sizes = np.diff(self._starts, append=len(self._tied))
        equal = np.where(self._ours[self._tied], np.repeat(heldout, sizes), -np.repeat(members, sizes))
        above[self._tied] += equal / 2
        found = np.empty(len(above))
        found[self._order] = above
        member = np.empty(len(above), dtype=bool)
        member[self._order] = self._ours
        return len(theirs) - found[member], found[~member]


def _sort(
    scores: Float[np.ndarray, " n"], member: Bool[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " k"], Int[np.ndarray, " g"]]:
    """Sort: the order of Ranks, its places with a score that others have, too, and where in these a score begins.

    Sorting words takes a quarter of the time of argsort. A word is a number that falls as the score rises, and the
    sample in place of its last bits. Samples that only these bits told apart are sorted by themselves.
    """
    words = (0.0 - scores.astype(np.float64)).view(np.int64)  # 0.0 - 0.0 has no sign
    words ^= words >> 63 & np.iinfo(np.int64).max  # negative floats run backwards
    low = len(words).bit_length()
    words >>= low
    words <<= low
    words |= np.arange(len(words))
    words.sort()
    order = words & ((1 << low) - 1)
    words >>= low
    same = words[1:] == words[:-1]
    near = np.flatnonzero(np.append(same, False) | np.append(False, same))
    rows = order[near]
    rows = rows[np.lexsort((~member[rows], -scores[rows], words[near]))]
    order[near] = rows
    values = scores[rows]
    starts = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(rows)])
    sizes = np.diff(starts, append=len(rows))
    several = sizes > 1
    tied = near[np.repeat(several, sizes)]
    return order, tied, np.cumsum(sizes[several]) - sizes[several]
