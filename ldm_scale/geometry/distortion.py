"""Distortion of the decoder at a latent: log sqrt(det G) = sum_i log sigma_i(J)."""

import torch
from jaxtyping import Float
from torch import Tensor


def exact_distortion(metric: Float[Tensor, "n d d"]) -> Float[Tensor, " n"]:
    """0.5 * sum_i log lambda_i(G) from the eigenvalues of the exact metric in float64 (paper, section 4).

    A decoder that is constant along some direction has a singular metric; its distortion is -inf or nan.
    """
    return (0.5 * torch.linalg.eigvalsh(metric).log().sum(-1)).float()
