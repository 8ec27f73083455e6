"""Stability of a sample's mask: how well the influences from two halves of its probes agree."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Estimator = Callable[[Tensor], Tensor]


def average_ranks(values: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rank of each value in its row, from 0; ties share their mean rank. Float64.

    >>> average_ranks(torch.tensor([[5.0, 1.0, 5.0, 7.0]]))
    tensor([[1.5000, 0.0000, 1.5000, 3.0000]], dtype=torch.float64)
    """
    ordered, values = values.sort(dim=1).values, values.contiguous()
    below = torch.searchsorted(ordered, values)
    upto = torch.searchsorted(ordered, values, right=True)
    return (below + upto - 1).double() / 2


def rank_correlation(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Spearman's rho of each row, -1 to 1: Pearson's correlation of the ranks; nan if the row is constant.

    >>> rank_correlation(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0, 0.0, 20.0]]))
    tensor([0.5000])
    """
    x, y = (ranks - ranks.mean(1, keepdim=True) for ranks in (average_ranks(a), average_ranks(b)))
    return ((x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))).float()


def lowest(influence: Float[Tensor, "n d"], drop: float) -> Float[Tensor, "n d"]:
    """1 at the ceil(drop * D) dimensions of lowest influence of each row, else 0; ties go by dimension."""
    order = influence.argsort(dim=1, stable=True)
    # Without the tolerance 0.07 * 100 would drop eight.
    dropped = math.ceil(drop * influence.shape[1] - 1e-9)
    return torch.zeros_like(influence).scatter_(1, order[:, :dropped], 1.0)


def mask_overlap(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], drop: float) -> Float[Tensor, " n"]:
    """|A and B| / |A| of the sets of lowest influence in each row; `drop` itself is expected by chance."""
    first, second = lowest(a, drop), lowest(b, drop)
    return ((first * second).sum(1) / first.sum(1)).float()


def split_half_stability(
    squares: Float[Tensor, "k n d"], estimate: Estimator, drop: float
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """How well the influences from the even and from the odd probes agree, K // 2 of each.

    Args:
        squares: (J^T v)_i^2 of each probe, as from `influence.probe_squares`.
        estimate: the influences (n, D) from the squares of some probes.
        drop: the share of dimensions whose agreement is measured, 0 to 1.

    Returns:
        Spearman's rho, -1 to 1, and the overlap of the lowest dimensions, 0 to 1; both nan for fewer than two probes.

    Example:
        Two halves that are equal:

        >>> squares = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]).expand(2, -1, -1)
        >>> split_half_stability(squares, lambda some: some.mean(0).log(), drop=0.5)
        (tensor([1.]), tensor([1.]))
    """
    half = len(squares) // 2
    if half == 0:
        unknown = squares.new_full(squares.shape[1:2], torch.nan)
        return unknown, unknown
    even, odd = (estimate(squares[parity : 2 * half : 2]) for parity in (0, 1))
    return rank_correlation(even, odd), mask_overlap(even, odd, drop)
