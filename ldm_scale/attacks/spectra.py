"""Influence spectra: an attack's statistic in equal bins of influence rank, so that no drop share costs a GPU pass."""

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor


def rank_bins(scores: Real[Tensor, "n d"], bins: int) -> Int[Tensor, "n d"]:
    """The bin of each dimension: rank r of D (0 = lowest score of its sample) is in bin floor(r * bins / D).

    Dropping the lowest q = k / bins drops exactly the ceil(q * D) lowest. Ties go by dimension.
    """
    order = scores.argsort(dim=1, stable=True)
    dimensions = scores.shape[1]
    bin_of_rank = torch.arange(dimensions, device=scores.device) * bins // dimensions
    return torch.empty_like(order).scatter_(1, order, bin_of_rank.expand_as(order))


def spectrum(
    vectors: Float[Tensor, "t n d"], bin_of: Int[Tensor, "n d"], p: float, bins: int
) -> Float[Tensor, "n t {bins}"]:
    """sum of |S_{t,i}|^p over the dimensions i of each bin.

    Suffix sums over bins are the statistic with the lowest influences dropped, prefix sums the reversed control. A
    product with the bins' indicator, not a scatter, so that the sum's order is the same on every run and device.
    """
    indicator = torch.nn.functional.one_hot(bin_of, bins).to(vectors.dtype)
    return torch.einsum("tnd,ndb->ntb", vectors.abs() ** p, indicator)
