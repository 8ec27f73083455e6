"""Distortion by stochastic Lanczos quadrature: 0.5 * tr(log G) from products with J and J^T alone."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from ldm_scale.geometry.pullback import Decoder, Jacobian, in_chunks

# An off-diagonal entry below this share of the diagonal one is rounding error: the run's space is exhausted.
BREAKDOWN = torch.finfo(torch.float32).eps


def bidiagonalise(jacobian: Jacobian, starts: Float[Tensor, "k n d"], steps: int) -> Float[Tensor, "k n m m"]:
    """The upper bidiagonal B of m = `steps` Golub-Kahan steps from unit starts v_1: J V = U B, V^T J^T U = B^T.

    B^T B is what Lanczos on G v = J^T (J v) gives, but B keeps the small singular values that squaring rounds away.
    V is orthogonalised in full, twice, in float64, which keeps U orthogonal too (Simon and Zha 2000). An exhausted run
    goes on with a diagonal of ones: cut off from v_1, and of logarithm 0.
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
    """0.5 * tr(log G) = D * E_v[v^T log(G^(1/2)) v] over random unit v (Ubaru, Chen and Saad 2017).

    Each of k Gaussian or Rademacher probes, normalised here, gives sum_j w_j log s_j: s_j are the singular values of
    its bidiagonal, w_j the squared first entries of their right vectors. min(steps, D) steps each; 16 probes in the
    paper's scripts. Fewer steps than the condition number of J asks for overestimate. Of a singular J the result is
    -inf or finite and arbitrary: singular values below about 1e-7 of the largest are rounding errors.
    """
    dimensions = z[0].numel()

    def quadrature(jacobian: Jacobian, probes: Tensor) -> Tensor:
        starts = normalize(probes.flatten(2).double(), dim=2)
        _, values, vectors = torch.linalg.svd(bidiagonalise(jacobian, starts, min(steps, dimensions)))
        return dimensions * torch.xlogy(vectors[..., 0].square(), values).sum(-1).mean(0).float()

    return torch.cat(in_chunks(quadrature, decode, z, probes, memory))


def slq_products(dimensions: int, probes: int, steps: int = 30) -> int:
    """Products with J and J^T that `slq_distortion` takes for a sample of D = `dimensions`."""
    return 2 * probes * min(steps, dimensions)
