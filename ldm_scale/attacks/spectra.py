"""Influence spectra: an attack's statistic in equal bins of influence rank, so that no drop share costs a GPU pass."""

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor


def rank_bins(scores: Real[Tensor, "n d"], bins: int) -> Int[Tensor, "n d"]:
    """The bin of each dimension: rank r of D (0 = lowest score of its sample) is in bin floor(r * bins / D).

    Dropping the lowest k bins drops exactly the ceil(k / bins * D) lowest dimensions, dropping the highest k bins the
    floor(k / bins * D) highest. Ties go by dimension.

    Args:
        scores: influences, or whatever else orders the dimensions.
        bins: how many.

    Returns:
        Bins, 0 to bins - 1, int64.

    Example:
        >>> rank_bins(torch.tensor([[0.3, 0.1, 0.4, 0.2, 0.5]]), bins=2)
        tensor([[0, 0, 1, 0, 1]])
    """
    order = scores.argsort(dim=1, stable=True)
    dimensions = scores.shape[1]
    bin_of_rank = torch.arange(dimensions, device=scores.device) * bins // dimensions
    return torch.empty_like(order).scatter_(1, order, bin_of_rank.expand_as(order))


def spectrum(
    vectors: Float[Tensor, "t n d"], bin_of: Int[Tensor, "n d"], p: float, bins: int
) -> Float[Tensor, "n t {bins}"]:
    """The sum of |S_{t,i}|^p over the dimensions i of each bin.

    Suffix sums over bins are the statistic with the lowest influences dropped, prefix sums the reversed control, and
    those of a random order the random one. A product with the bins' indicator, not a scatter: the sum's order is the
    same on every run and device.

    Args:
        vectors: S_t of each sample at each timestep.
        bin_of: the bin of each dimension, as from `rank_bins`.
        p: the exponent.
        bins: how many.

    Returns:
        Sums, not negative, in the precision of vectors.

    Example:
        >>> spectrum(torch.tensor([[[1.0, -2.0, 3.0]]]), torch.tensor([[0, 1, 0]]), p=2.0, bins=2)  # 1 + 9, 4
        tensor([[[10.,  4.]]])
    """
    indicator = torch.nn.functional.one_hot(bin_of, bins).to(vectors.dtype)
    return torch.einsum("tnd,ndb->ntb", vectors.abs() ** p, indicator)
