"""Pairs of unit vectors that are close, found among a million without comparing all pairs."""

from collections.abc import Iterator

import numpy as np

# The least cosine of a candidate pair.
CLOSE = 0.9
# Each vector is compared with those that share one of its nearest landmarks; there are about 4 sqrt(n) landmarks.
SHARED = 5
DENSITY = 4
# The closest few in each landmark's cell are candidates, so that a crowd does not give all of its pairs.
CLOSEST = 8
_CHUNK = 2048


def _nearest(vectors: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The nearest landmarks of each vector, int32 (n, at most 5)."""
    shared = min(SHARED, len(landmarks))
    found = np.empty((len(vectors), shared), np.int32)
    for start in range(0, len(vectors), _CHUNK):
        cosines = vectors[start : start + _CHUNK] @ landmarks.T
        found[start : start + _CHUNK] = np.argpartition(-cosines, shared - 1, axis=1)[:, :shared]
    return found


def _cells(nearest: np.ndarray, landmarks: int) -> list[np.ndarray]:
    """Which vectors have each landmark among their nearest."""
    order = np.argsort(nearest, axis=None, kind="stable")
    ends = np.searchsorted(nearest.ravel()[order], np.arange(1, landmarks))
    return np.split((order // nearest.shape[1]).astype(np.int32), ends)


def _closest(
    queries: np.ndarray, numbers: np.ndarray, rows: np.ndarray, vectors: np.ndarray, cell: np.ndarray
) -> Iterator[np.ndarray]:
    """The closest few of a cell to each of some rows of the queries, int64 (k, 2), a chunk at a time."""
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        cosines = queries[part] @ vectors[cell].T
        cosines[numbers[part, None] == cell] = -1
        row, column = np.nonzero(cosines >= CLOSE)
        order = np.lexsort((-cosines[row, column], row))
        row, column = row[order], column[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        yield np.stack([numbers[part[row]], cell[column]], axis=1)[rank < CLOSEST].astype(np.int64)


def close_pairs(queries: np.ndarray, numbers: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Pairs i < j with a query of i close to vectors[j], or of j to vectors[i].

    The landmarks are vectors at even steps, so that there are many where vectors crowd and cells stay small: about
    n^1.5 products for n vectors. A pair that shares no landmark is missed, one in a hundred of those just close enough.

    Args:
        queries: float32 unit vectors (m, d).
        numbers: Of which vector each is a query, int (m,).
        vectors: float32 unit vectors (n, d).

    Returns:
        int64 (k, 2), each pair once.
    """
    count = len(vectors)
    if count < 2:
        return np.empty((0, 2), np.int64)
    landmarks = vectors[:: max(1, round(count**0.5 / DENSITY))]
    asking = _cells(_nearest(queries, landmarks), len(landmarks))
    codes: list[np.ndarray] = []
    for rows, cell in zip(asking, _cells(_nearest(vectors, landmarks), len(landmarks)), strict=True):
        found = _closest(queries, numbers, rows, vectors, cell)
        codes.extend(pairs.min(axis=1) * count + pairs.max(axis=1) for pairs in found)
    return np.stack(np.divmod(np.unique(np.concatenate([np.empty(0, np.int64), *codes])), count), axis=1)
