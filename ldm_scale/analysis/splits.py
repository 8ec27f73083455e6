"""Random stratified folds of the samples."""

import numpy as np
from jaxtyping import Bool, Int


def folds(member: Bool[np.ndarray, " n"], count: int, seed: int) -> Int[np.ndarray, " n"]:
    """Each sample's fold, 0 ... count - 1; a fold holds 1/count of the members and of the held-out samples, up to one.

    Where a side does not divide, the last folds are the larger ones.
    """
    rng = np.random.default_rng(seed)
    fold = np.empty(len(member), dtype=np.int64)
    for side in (member, ~member):
        size = int(side.sum())
        fold[side] = rng.permutation(count - 1 - np.arange(size) % count)
    return fold
