"""Distortion by stochastic Lanczos quadrature: 0.5 * tr(log G) from products with J and J^T alone."""

import torch
from jaxtyping import Float
from torch import Tensor

from ldm_scale.geometry.bidiagonal import Bidiagonal, go_on
from ldm_scale.geometry.pullback import Decoder, Jacobian, in_chunks


def slq_distortion(
    decode: Decoder, z: Float[Tensor, "n c h w"], probes: Float[Tensor, "k n c h w"], memory: int, steps: int = 30
) -> Float[Tensor, " n"]:
    """Distortion by stochastic Lanczos quadrature: 0.5 * tr(log G) = D * E_v[v^T log(G^(1/2)) v] over random unit v.

    Each probe gives sum_j w_j log s_j: s_j are the singular values of its bidiagonal, w_j the squared first entries of
    their right vectors (Ubaru, Chen and Saad 2017). The scripts of arXiv 2511.20592 take 16 probes and 30 steps.

    Args:
        probes: Gaussian or Rademacher, in latent space, k for each sample; normalised here.
        steps: of Lanczos, D if that is less. Too few for the condition number of J overestimate.

    Returns:
        log sqrt(det G), float32. If J is singular, it is -inf or finite and arbitrary: singular values below about 1e-7
        of the largest are rounding errors.

    Raises:
        RunError: The device does not hold one product.

    Example:
        A decoder of singular values 4, 2 and 1, and a probe that looks at all dimensions alike:

        >>> scales = torch.tensor([4.0, 2.0, 1.0])[:, None, None]
        >>> z, probes = torch.zeros(1, 3, 1, 1), torch.ones(1, 1, 3, 1, 1)
        >>> slq_distortion(lambda z: scales * z, z, probes, memory=2**20)  # log 8
        tensor([2.0794])
    """
    dimensions = z[0].numel()

    def quadrature(jacobian: Jacobian, probes: Tensor) -> Tensor:
        runs = go_on(jacobian, Bidiagonal.begin(probes), min(steps, dimensions))
        _, values, vectors = torch.linalg.svd(runs.matrix())
        return dimensions * torch.xlogy(vectors[..., 0].square(), values).sum(-1).mean(0).float()

    return torch.cat(in_chunks(quadrature, decode, z, probes, memory))


def slq_products(dimensions: int, probes: int, steps: int = 30) -> int:
    """Products with J and J^T that `slq_distortion` takes for a sample of D = `dimensions`.

    >>> slq_products(4096, probes=16)  # one with each, in each of 30 steps
    960
    """
    return 2 * probes * min(steps, dimensions)
