"""Distortion by stochastic Lanczos quadrature: 0.5 * tr(log G) from products with J and J^T alone."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from ldm_scale.geometry.pullback import Decoder, Jacobian, in_chunks

# An off-diagonal entry below this share of the diagonal one is rounding error: the run's space is exhausted.
BREAKDOWN = torch.finfo(torch.float32).eps


def bidiagonalise(jacobian: Jacobian, starts: Float[Tensor, "k n d"], steps: int) -> Float[Tensor, "k n m m"]:
    """The upper bidiagonal B of m Golub-Kahan steps from v_1 (Golub and Kahan 1965): J V = U B, V^T J^T U = B^T.

    B^T B is what Lanczos on G v = J^T (J v) gives, but B keeps the small singular values that squaring rounds away.
    V is orthogonalised in full, twice, in float64, which keeps U orthogonal too (Simon and Zha 2000). An exhausted run
    goes on with a diagonal of ones: cut off from v_1, and of logarithm 0.

    Args:
        jacobian: J of n samples.
        starts: v_1, unit vectors in latent space, float64, k for each sample.
        steps: m, at most D.

    Returns:
        B, float64.

    Example:
        From an eigenvector of G the run is exhausted at once:

        >>> jacobian = Jacobian(lambda z: z * torch.tensor([4.0, 2.0, 1.0])[:, None, None], torch.zeros(1, 3, 1, 1), 1)
        >>> bidiagonalise(jacobian, torch.tensor([[[1.0, 0.0, 0.0]]], dtype=torch.float64), steps=2)
        tensor([[[[4., 0.],
                  [0., 1.]]]], dtype=torch.float64)
    """
    z, basis = jacobian.z, starts[None]
    u, beta = torch.zeros_like(z[0, 0, 0, 0]), torch.ones_like(starts[..., :1])
    diagonal, upper = [], []
    for _ in range(steps):
        v = basis[-1]
        pushed = jacobian.push(v.to(z.dtype).unflatten(2, z.shape[1:]))
        ahead = pushed.flatten(2).double() - beta * u
        alpha = torch.where(beta > 0, ahead.norm(dim=2, keepdim=True), 1.0)
        u = normalize(ahead, dim=2)
        pulled = jacobian.pull(u.to(z.dtype).unflatten(2, pushed.shape[2:]))
        ahead = pulled.flatten(2).double() - alpha * v
        for _ in range(2):
            ahead = ahead - torch.einsum("mknd,mkn->knd", basis, torch.einsum("mknd,knd->mkn", basis, ahead))
        beta = ahead.norm(dim=2, keepdim=True)
        beta = torch.where(beta > BREAKDOWN * alpha, beta, 0.0)
        basis = torch.cat([basis, torch.where(beta > 0, normalize(ahead, dim=2), 0.0)[None]])
        diagonal.append(alpha[..., 0])
        upper.append(beta[..., 0])
    # The last step's off-diagonal entry leads out of the matrix.
    return torch.diag_embed(torch.stack(diagonal, -1)) + torch.diag_embed(torch.stack(upper, -1)[..., :-1], offset=1)


def slq_distortion(
    decode: Decoder, z: Float[Tensor, "n c h w"], probes: Float[Tensor, "k n c h w"], memory: int, steps: int = 30
) -> Float[Tensor, " n"]:
    """Distortion by stochastic Lanczos quadrature: 0.5 * tr(log G) = D * E_v[v^T log(G^(1/2)) v] over random unit v.

    Each probe gives sum_j w_j log s_j: s_j are the singular values of its bidiagonal, w_j the squared first entries of
    their right vectors (Ubaru, Chen and Saad 2017). The scripts of arXiv 2511.20592 take 16 probes and 30 steps.

    Args:
        decode: latents to images.
        z: latents.
        probes: Gaussian or Rademacher, in latent space, k for each sample; normalised here.
        memory: bytes that the products computed at once may hold.
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
        starts = normalize(probes.flatten(2).double(), dim=2)
        _, values, vectors = torch.linalg.svd(bidiagonalise(jacobian, starts, min(steps, dimensions)))
        return dimensions * torch.xlogy(vectors[..., 0].square(), values).sum(-1).mean(0).float()

    return torch.cat(in_chunks(quadrature, decode, z, probes, memory))


def slq_products(dimensions: int, probes: int, steps: int = 30) -> int:
    """Products with J and J^T that `slq_distortion` takes for a sample of D = `dimensions`.

    >>> slq_products(4096, probes=16)  # one with each, in each of 30 steps
    960
    """
    return 2 * probes * min(steps, dimensions)
