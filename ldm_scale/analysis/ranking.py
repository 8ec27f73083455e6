"""The data set's ranking of latent dimensions by influence, from sums that merge in any order."""

from dataclasses import dataclass, fields
from functools import reduce

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from scipy.stats import rankdata


def influence_ranks(influence: Float[np.ndarray, "n d"]) -> Int[np.ndarray, "n d"]:
    """The rank of each dimension in its sample, 0 for the lowest influence; equal ones in the order of dimensions.

    >>> influence_ranks(np.array([[0.3, -1.0, 0.3]]))
    array([[1, 0, 2]])
    """
    if influence.dtype == np.float16:
        # Short integers in the same order are ranked in a quarter of the time; 0.0 takes the sign of zeros away.
        bits = (influence + np.float16(0)).view(np.int16)
        influence = bits ^ (bits >> 15 & np.int16(0x7FFF))
    # Floats in some versions of SciPy.
    return rankdata(influence, method="ordinal", axis=1).astype(np.int64) - 1


@dataclass(frozen=True)
class RankingSums:
    """Sums over samples of c_i, its square, its rank and whether it is dropped, by dimension; merging is adding."""

    count: int
    influence: Float[np.ndarray, " d"]
    squares: Float[np.ndarray, " d"]
    ranks: Float[np.ndarray, " d"]
    dropped: Float[np.ndarray, " d"]

    @classmethod
    def of(cls, influence: Float[np.ndarray, "n d"], dropped: int, bins: int) -> "RankingSums":
        """The sums of one part whose samples each drop the lowest `dropped` of `bins` bins of influence rank."""
        values = influence.astype(np.float64)
        ranks = influence_ranks(influence)
        below = ranks * bins // influence.shape[1] < dropped
        sums = values.sum(0), np.square(values).sum(0), ranks.sum(0).astype(np.float64), below.sum(0).astype(np.float64)
        return cls(len(values), *sums)

    def __add__(self, other: "RankingSums") -> "RankingSums":
        return RankingSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def merge(parts: list[RankingSums]) -> RankingSums:
    """The sums of all parts together."""
    return reduce(RankingSums.__add__, parts)


def ranking_table(sums: RankingSums, latent_shape: tuple[int, int, int], leakage: Float[np.ndarray, " d"]) -> pa.Table:
    """ranking.parquet: one row a dimension, with its channel, row and column in the latent.

    mean and standard_error of c_i over samples (nats); mean_rank of c_i within a sample (0 = lowest); dropped_share:
    share of the samples that drop it; rank: by mean, 0 = lowest; leakage: AUROC of minus |S_i| of that dimension alone,
    on at most 131,072 samples of each side.

    Args:
        sums: over all samples.
        latent_shape: channels, rows and columns of the latent.
        leakage: AUROC of each dimension.

    >>> sums = RankingSums.of(np.array([[-5.0, -7.0], [-4.0, -6.0]]), dropped=1, bins=2)
    >>> table = ranking_table(sums, (1, 1, 2), np.array([0.6, 0.5]))
    >>> table.select(["mean", "standard_error", "dropped_share", "rank"]).to_pylist()[0]
    {'mean': -4.5, 'standard_error': 0.5, 'dropped_share': 0.0, 'rank': 1}
    """
    mean = sums.influence / sums.count
    variance = np.maximum(sums.squares / sums.count - mean**2, 0) * sums.count / max(sums.count - 1, 1)
    channel, row, column = np.unravel_index(np.arange(len(mean)), latent_shape)
    return pa.table(
        {
            "dimension": np.arange(len(mean)),
            "channel": channel,
            "row": row,
            "column": column,
            "mean": mean,
            "standard_error": np.sqrt(variance / sums.count),
            "mean_rank": sums.ranks / sums.count,
            "dropped_share": sums.dropped / sums.count,
            "rank": influence_ranks(mean[None])[0],
            "leakage": leakage,
        }
    )
