"""Truncated distortion: the sum of the largest log singular values of J by a matrix-free randomized SVD."""

import torch
from jaxtyping import Float
from torch import Tensor

from ldm_scale.geometry.pullback import Decoder, Jacobian, in_chunks


def orthonormal(products: Float[Tensor, "k n *shape"]) -> Float[Tensor, "r n *shape"]:
    """An orthonormal basis of the span of each sample's k products, by QR in float64; r = min(k, values of one)."""
    columns = products.flatten(2).permute(1, 2, 0).double()
    basis = torch.linalg.qr(columns).Q.permute(2, 0, 1)
    return basis.reshape(-1, *products.shape[1:]).to(products.dtype)


def truncated_distortion(
    decode: Decoder,
    z: Float[Tensor, "n c h w"],
    tangents: Float[Tensor, "r n c h w"],
    memory: int,
    rank: int = 20,
    iterations: int = 2,
) -> Float[Tensor, " n"]:
    """sum_{i <= rank} log sigma_i(J) of the range of (J J^T)^iterations J Omega (Halko et al. 2011, algorithm 4.4).

    Omega are the r = rank + oversampling Gaussian `tangents` (20 + 30 in the paper), or the first D of them if D < r.
    Every product with J or J^T is followed by a QR. Of a J whose rank is below `rank`, it is -inf or sums logarithms
    of rounding errors.
    """

    def largest(jacobian: Jacobian, tangents: Tensor) -> Tensor:
        images = orthonormal(jacobian.push(tangents))
        for _ in range(iterations):
            directions = orthonormal(jacobian.pull(images))
            images = orthonormal(jacobian.push(directions))
        rows = jacobian.pull(images).flatten(2).transpose(0, 1).double()
        return torch.linalg.svdvals(rows)[:, :rank].log().sum(-1).float()

    return torch.cat(in_chunks(largest, decode, z, tangents[: z[0].numel()], memory))


def truncated_products(dimensions: int, tangents: int, iterations: int = 2) -> int:
    """Products with J and J^T that `truncated_distortion` takes for a sample of D = `dimensions`."""
    return 2 * (iterations + 1) * min(tangents, dimensions)
