"""Influence of each latent dimension on the image: c_i(z) = 0.5 * log(G_ii(z) + 1e-12), G_ii = ||J e_i||^2."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ldm_scale.geometry.pullback import Decoder, Jacobian, in_chunks

FLOOR = 1e-12


def exact_influence(metric: Float[Tensor, "n d d"]) -> Float[Tensor, "n d"]:
    """Influences from the exact metric: c_i = 0.5 * log(G_ii + 1e-12) (arXiv 2511.20592, section 4).

    Args:
        metric: G of each sample.

    Returns:
        c_i, float32; -13.8 for a dimension that changes nothing.

    Example:
        Of a linear decoder, c_i is the log norm of column i:

        >>> J = torch.tensor([[3.0, 0.0], [4.0, 1.0]])
        >>> exact_influence((J.mT @ J)[None]).exp()
        tensor([[5., 1.]])
    """
    return (0.5 * torch.log(metric.diagonal(dim1=1, dim2=2) + FLOOR)).float()


def log_bias(probes: int) -> float:
    """Bias of 0.5 * log of a K-probe estimate of G_ii: 0.5 * (digamma(K/2) - log(K/2)).

    For v ~ N(0, I), (J^T v)_i is normal with variance G_ii: K * estimate / G_ii follows chi^2 of K degrees of freedom.

    Args:
        probes: K, at least 1.

    Returns:
        The bias, negative; it falls as -1 / (2 K).

    Example:
        >>> print(f"{log_bias(2):.4f} {log_bias(8):.4f} {log_bias(64):.4f}")
        -0.2886 -0.0651 -0.0079
    """
    half = torch.tensor(probes / 2, dtype=torch.float64)
    return 0.5 * (torch.digamma(half).item() - math.log(probes / 2))


def probe_squares(
    decode: Decoder, z: Float[Tensor, "n c h w"], probes: Float[Tensor, "k n 3 H W"], memory: int
) -> Float[Tensor, "k n d"]:
    """(J^T v)_i^2 of each probe v: its mean over K probes estimates G_ii with relative deviation sqrt(2/K).

    A sample's one forward pass serves all its probes.

    Args:
        probes: v ~ N(0, I), in image space, K for each sample.

    Returns:
        (J^T v)_i^2, not negative, in the precision of z.

    Raises:
        RunError: The device does not hold one product.

    Example:
        A decoder that shows the one latent dimension in every channel, three times as large, and a probe of ones:

        >>> z, v = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 3, 1, 1)
        >>> probe_squares(lambda z: 3 * z.expand(-1, 3, -1, -1), z, v, memory=2**20)  # (3 + 3 + 3)^2
        tensor([[[81.]]])
    """
    return torch.cat(in_chunks(Jacobian.pull, decode, z, probes, memory), dim=1).flatten(2).square()


def hutchinson_influence(squares: Float[Tensor, "k n d"]) -> Float[Tensor, "n d"]:
    """Influences from K Hutchinson probes, diag(G) = E_v[(J^T v)^2] (Bekas et al. 2007), with the log's bias removed.

    Args:
        squares: (J^T v)_i^2 of each probe, as from `probe_squares`.

    Returns:
        0.5 * log(mean over probes + 1e-12) - log_bias(K): unbiased, with variance `pooled.noise_variance(K)`.

    Example:
        >>> squares = torch.tensor([[[1.0, 4.0]], [[1.0, 12.0]]])  # two probes of two dimensions
        >>> hutchinson_influence(squares) + log_bias(2)  # 0.5 log 1, 0.5 log 8
        tensor([[0.0000, 1.0397]])
    """
    return 0.5 * torch.log(squares.mean(0) + FLOOR) - log_bias(len(squares))
