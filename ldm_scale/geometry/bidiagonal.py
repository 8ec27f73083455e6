"""Golub-Kahan bidiagonalisation of J by products with J and J^T alone, as many steps at a time as are asked for."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from ldm_scale.geometry.pullback import Jacobian

# An off-diagonal entry below this share of the diagonal one is rounding error: the run's space is exhausted.
BREAKDOWN = torch.finfo(torch.float32).eps


class Bidiagonal(NamedTuple):
    """k runs at each of n samples after m steps, in float64: J V = U B, V^T J^T U = B^T (Golub and Kahan 1965).

    Attributes:
        basis: V, and the vector that the next step begins from.
        image: the last column of U; of one value before the first step.
        diagonal: of the upper bidiagonal B.
        upper: beside it; the last entry leads out of B.
    """

    basis: Float[Tensor, "m+1 k n d"]
    image: Float[Tensor, "1 k n M"]
    diagonal: Float[Tensor, "m k n"]
    upper: Float[Tensor, "m k n"]

    @classmethod
    def begin(cls, starts: Float[Tensor, "k n ..."]) -> "Bidiagonal":
        """Runs of no step.

        Args:
            starts: v_1 in latent space, of any length, k for each sample.
        """
        basis = normalize(starts.flatten(2).double(), dim=2)[None]
        return cls(basis, torch.zeros_like(basis[..., :1]), *basis.new_empty(2, 0, *basis.shape[1:3]))

    @classmethod
    def join(cls, parts: list["Bidiagonal"]) -> "Bidiagonal":
        """The runs of all samples, from those of some after those of others."""
        return cls(*(torch.cat(tensors, dim=2) for tensors in zip(*parts, strict=True)))

    def at(self, samples: Tensor) -> "Bidiagonal":
        """The runs of some samples, by their places or by a mask."""
        return Bidiagonal(*(tensor[:, :, samples] for tensor in self))

    @property
    def steps(self) -> int:
        return len(self.diagonal)

    def matrix(self) -> Float[Tensor, "k n m m"]:
        """B; its leading submatrices are those of fewer steps."""
        diagonal, upper = self.diagonal.permute(1, 2, 0), self.upper.permute(1, 2, 0)
        return torch.diag_embed(diagonal) + torch.diag_embed(upper[..., :-1], offset=1)


def go_on(jacobian: Jacobian, runs: Bidiagonal, steps: int) -> Bidiagonal:
    """The runs after so many steps more.

    B^T B is what Lanczos on G v = J^T (J v) gives, but B keeps the small singular values that squaring rounds away.
    V is orthogonalised in full, twice, in float64, which keeps U orthogonal too (Simon and Zha 2000). An exhausted run
    begins again beside what it has found: B falls apart into blocks.

    Args:
        jacobian: J of the n samples.
        runs: at them.
        steps: at most D in all.

    Example:
        From an eigenvector of G the run is exhausted at once, and begins again from another vector:

        >>> jacobian = Jacobian(lambda z: z * torch.tensor([4.0, 2.0, 1.0])[:, None, None], torch.zeros(1, 3, 1, 1), 1)
        >>> go_on(jacobian, Bidiagonal.begin(torch.tensor([[[1.0, 0.0, 0.0]]])), steps=2).matrix()
        tensor([[[[4., 0.],
                  [0., 2.]]]], dtype=torch.float64)
    """
    for _ in range(steps):
        runs = _step(jacobian, runs)
    return runs


def _step(jacobian: Jacobian, runs: Bidiagonal) -> Bidiagonal:
    z, basis, v = jacobian.z, runs.basis, runs.basis[-1]
    pushed = jacobian.push(v.to(z.dtype).unflatten(2, z.shape[1:]))
    ahead = pushed.flatten(2).double()
    if runs.steps:
        ahead = ahead - runs.upper[-1, ..., None] * runs.image[0]
    alpha, u = ahead.norm(dim=2, keepdim=True), normalize(ahead, dim=2)
    pulled = jacobian.pull(u.to(z.dtype).unflatten(2, pushed.shape[2:]))
    ahead = _without(basis, pulled.flatten(2).double() - alpha * v)
    beta = ahead.norm(dim=2, keepdim=True)
    exhausted = beta <= BREAKDOWN * alpha
    ahead = normalize(ahead, dim=2)
    if exhausted.any():
        beta, ahead = torch.where(exhausted, 0.0, beta), torch.where(exhausted, _unseen(basis), ahead)
    return Bidiagonal(
        torch.cat([basis, ahead[None]]),
        u[None],
        torch.cat([runs.diagonal, alpha[None, ..., 0]]),
        torch.cat([runs.upper, beta[None, ..., 0]]),
    )


def _without(basis: Float[Tensor, "m k n d"], vectors: Float[Tensor, "k n d"]) -> Float[Tensor, "k n d"]:
    """What is orthogonal to the basis; once would leave rounding errors in it."""
    for _ in range(2):
        vectors = vectors - torch.einsum("mknd,mkn->knd", basis, torch.einsum("mknd,knd->mkn", basis, vectors))
    return vectors


def _unseen(basis: Float[Tensor, "m k n d"]) -> Float[Tensor, "k n d"]:
    """A unit vector orthogonal to the basis: from the axis that it holds least of."""
    axis = one_hot(basis.square().sum(0).argmin(2), basis.shape[3]).to(basis.dtype)
    return normalize(_without(basis, axis), dim=2)
