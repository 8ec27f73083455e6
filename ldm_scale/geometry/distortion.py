"""Distortion of the decoder at a latent: log sqrt(det G) = sum_i log sigma_i(J)."""

import torch
from jaxtyping import Float
from torch import Tensor


def exact_distortion(metric: Float[Tensor, "n d d"]) -> Float[Tensor, " n"]:
    """Distortion from the eigenvalues of the exact metric: 0.5 * sum_i log lambda_i(G) (arXiv 2511.20592, section 4).

    Args:
        metric: G of each sample, symmetric, in float64 (the precision of the eigenvalues).

    Returns:
        log sqrt(det G), float32. -inf or nan if G is singular: the decoder is constant along some direction.

    Example:
        A decoder of singular values 1/2, 2 and 3 triples volumes:

        >>> exact_distortion(torch.diag_embed(torch.tensor([[0.5, 2.0, 3.0]], dtype=torch.float64) ** 2)).exp()
        tensor([3.])
    """
    return (0.5 * torch.linalg.eigvalsh(metric).log().sum(-1)).float()
