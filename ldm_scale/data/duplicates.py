"""Near-duplicates: which pictures of a data set show what an earlier one shows, so that one of them is kept."""

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ldm_scale.data.candidates import close_pairs
from ldm_scale.data.likeness import THUMBNAIL, correlation, descriptors, has_contrast, mirrored, thumbnail
from ldm_scale.data.work import RunTasks

# Pairs that one task compares.
COMPARED = 4096


@dataclass(frozen=True, slots=True)
class Look:
    """What is kept of an image to compare it by: a digest of its thumbnail in colour, and the thumbnail in grey."""

    digest: bytes
    grey: np.ndarray

    @classmethod
    def at(cls, image: Image.Image) -> "Look":
        """Look at an RGB image; `grey` is uint8 (32, 32)."""
        small = thumbnail(image)
        return cls(hashlib.blake2b(small.tobytes(), digest_size=16).digest(), np.asarray(small.convert("L")))


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The number of a picture, the earlier one that is kept for it, and their correlation.

    The correlation is 1 if their thumbnails are equal, and None if they are variants of one picture.
    """

    number: int
    kept: int
    correlation: float | None


@dataclass(frozen=True)
class _Comparisons(Sequence[tuple[np.ndarray, np.ndarray]]):
    """Tasks of `correlation`, each made when it is asked for: all thumbnails of all pairs would not fit in memory."""

    greys: np.ndarray
    pairs: np.ndarray

    def __len__(self) -> int:
        return -(-len(self.pairs) // COMPARED)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[override]
        if number >= len(self):
            raise IndexError(number)
        first, second, in_mirror = self.pairs[number * COMPARED :][:COMPARED].T
        other = self.greys[second]
        return self.greys[first], np.where(in_mirror[:, None, None], other[:, :, ::-1], other)


def _compare(task: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return correlation(*task)


def leaders(pairs: np.ndarray) -> dict[int, int]:
    """Which row of `pairs` removes a picture: its first with an earlier one that is itself kept; no chains.

    pairs: int (m, 2), the earlier picture first. The rest, not in the answer, are kept.
    """
    removed: dict[int, int] = {}
    for row in np.lexsort(pairs.T).tolist():
        earlier, later = pairs[row].tolist()
        if earlier not in removed:
            removed.setdefault(later, row)
    return removed


def _candidates(found: np.ndarray, left: np.ndarray, asking: np.ndarray) -> np.ndarray:
    """Pairs of the pictures left, one of them asking, and whether they look alike in a mirror: int64 (m, 3)."""
    place = np.searchsorted(left, asking)
    direct = close_pairs(found[asking], place, found[left])
    in_mirror = close_pairs(mirrored(found[asking]), place, found[left])
    return np.concatenate([np.insert(left[direct], 2, 0, axis=1), np.insert(left[in_mirror], 2, 1, axis=1)])


def near_pairs(greys: np.ndarray, lowest: float, run: RunTasks) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of pictures that correlate by at least `lowest`: int64 (m, 2), the earlier first, and float32 (m,).

    A crowd's pairs are not all looked at. Each picture is compared with its closest; when some of these are removed,
    with the closest of what is left, until no new pair is found. Even grounds are near nothing.
    """
    lit = np.flatnonzero(has_contrast(greys))
    found = descriptors(greys[lit])
    seen = np.empty((0, 3), np.int64)
    likeness = np.empty(0, np.float32)
    left = asking = np.arange(len(lit))
    while True:
        fresh = _unseen(_candidates(found, left, asking), seen, len(lit))
        tasks = _Comparisons(greys, np.column_stack([lit[fresh[:, :2]], fresh[:, 2]]))
        compared = np.concatenate([np.empty(0, np.float32), *run(_compare, tasks, "pairs of images compared")])
        seen, likeness = np.concatenate([seen, fresh]), np.concatenate([likeness, compared])
        near = likeness >= lowest
        if not (compared >= lowest).any():
            return lit[seen[near, :2]], likeness[near]
        is_left = np.ones(len(lit), bool)
        is_left[list(leaders(seen[near, :2]))] = False
        first, second = seen[:, :2].T
        left = np.flatnonzero(is_left)
        beside = np.concatenate([first[~is_left[second]], second[~is_left[first]]])
        asking = np.intersect1d(beside, left)


def _unseen(pairs: np.ndarray, seen: np.ndarray, count: int) -> np.ndarray:
    """The rows of `pairs` that `seen` has not."""
    digits = np.array([2 * count, 2, 1])
    return pairs[~np.isin(pairs @ digits, seen @ digits)]


class Gallery:
    """The pictures of a data set in their order, 1 KB each; equal ones are found at once."""

    def __init__(self, capacity: int) -> None:
        self._greys = np.empty((capacity, THUMBNAIL, THUMBNAIL), np.uint8)
        self._numbers: list[int] = []
        self._first: dict[Hashable, int] = {}
        self._equal: list[Duplicate] = []
        self._seen = 0

    def add(self, look: Look, variant: Hashable | None) -> None:
        """Add the next picture; it is a duplicate if an earlier one has its thumbnail or its variant."""
        number, self._seen = self._seen, self._seen + 1
        marks: dict[Hashable, float | None] = {look.digest: 1.0}
        if variant is not None:
            marks["variant", variant] = None
        if known := next((mark for mark in marks if mark in self._first), None):
            self._equal.append(Duplicate(number, self._first[known], marks[known]))
        else:
            self._first.update(dict.fromkeys(marks, number))
            self._greys[len(self._numbers)] = look.grey
            self._numbers.append(number)

    def duplicates(self, lowest: float, run: RunTasks) -> list[Duplicate]:
        """Every duplicate, in order; if it is not equal to the picture kept, they correlate by `lowest` at least."""
        pairs, likeness = near_pairs(self._greys[: len(self._numbers)], lowest, run)
        near = {
            self._numbers[later]: (self._numbers[pairs[row, 0]], float(likeness[row]))
            for later, row in leaders(pairs).items()
        }
        equal = [_follow(duplicate, near) for duplicate in self._equal]
        return sorted([*equal, *(Duplicate(later, *kept) for later, kept in near.items())], key=lambda one: one.number)


def _follow(duplicate: Duplicate, near: dict[int, tuple[int, float]]) -> Duplicate:
    """A picture's equal is what the picture itself is: near to the one that is kept for both."""
    if duplicate.kept not in near:
        return duplicate
    kept, likeness = near[duplicate.kept]
    return Duplicate(duplicate.number, kept, None if duplicate.correlation is None else likeness)
