"""Influence of each latent dimension on the image: c_i(z) = 0.5 * log(G_ii(z) + 1e-12), G_ii = ||J e_i||^2."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ldm_scale.geometry.pullback import Decoder, Jacobian, in_chunks

FLOOR = 1e-12


def exact_influence(metric: Float[Tensor, "n d d"]) -> Float[Tensor, "n d"]:
    """c_i = 0.5 * log(G_ii + 1e-12) from the exact metric G (paper, section 4); float32."""
    return (0.5 * torch.log(metric.diagonal(dim1=1, dim2=2) + FLOOR)).float()


def log_bias(probes: int) -> float:
    """Bias of 0.5 * log of a K-probe estimate: 0.5 * (digamma(K/2) - log(K/2)), as K * estimate / G_ii ~ chi^2_K."""
    half = torch.tensor(probes / 2, dtype=torch.float64)
    return 0.5 * (torch.digamma(half).item() - math.log(probes / 2))


def probe_squares(
    decode: Decoder, z: Float[Tensor, "n c h w"], probes: Float[Tensor, "k n 3 H W"], memory: int
) -> Float[Tensor, "k n d"]:
    """(J^T v)_i^2 of each probe v ~ N(0, I); its mean over probes estimates G_ii with relative deviation sqrt(2/K).

    As many samples and probes go at once as `memory` bytes hold; a sample's forward pass serves all its probes.
    """
    return torch.cat(in_chunks(Jacobian.pull, decode, z, probes, memory), dim=1).flatten(2).square()


def hutchinson_influence(squares: Float[Tensor, "k n d"]) -> Float[Tensor, "n d"]:
    """c_i from K Hutchinson probes, diag(G) = E_v[(J^T v)^2] (Bekas et al. 2007), with the log's bias removed."""
    return 0.5 * torch.log(squares.mean(0) + FLOOR) - log_bias(len(squares))
