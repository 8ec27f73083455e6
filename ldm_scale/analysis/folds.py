"""Random parts of the samples that hold both sides: stratified folds, and so many of each."""

import numpy as np
from jaxtyping import Bool, Int


def folds(member: Bool[np.ndarray, " n"], count: int, seed: int) -> Int[np.ndarray, " n"]:
    """Each sample's fold: a fold holds 1 / count of the members and of the held-out samples, up to one of each.

    If the number of a side is no multiple of `count`, the last folds are the larger ones.

    Args:
        count: folds, at most as many as the smaller side has samples if none is to be empty.

    Returns:
        Numbers 0 to count - 1.

    >>> fold = folds(np.arange(10) < 4, 2, seed=0)
    >>> np.bincount(fold[:4]), np.bincount(fold[4:])
    (array([2, 2]), array([3, 3]))
    """
    rng = np.random.default_rng(seed)
    fold = np.empty(len(member), dtype=np.int64)
    for side in (member, ~member):
        size = int(side.sum())
        fold[side] = rng.permutation(count - 1 - np.arange(size) % count)
    return fold


def some_of_each(member: Bool[np.ndarray, " n"], most: int, rng: np.random.Generator) -> Int[np.ndarray, " m"]:
    """The rows, in ascending order, of so many members and held-out samples at random, or of a whole side.

    Args:
        most: rows of each side.
        rng: where the draw comes from.

    >>> some_of_each(np.array([True, False, False, True]), 2, np.random.default_rng(0))
    array([0, 1, 2, 3])
    """
    return np.sort(np.concatenate([rng.permutation(np.flatnonzero(side))[:most] for side in (member, ~member)]))
