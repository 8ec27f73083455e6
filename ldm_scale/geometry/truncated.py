"""Truncated distortion: the sum of the largest log singular values of J by a matrix-free randomized SVD."""

import torch
from jaxtyping import Float
from torch import Tensor

from ldm_scale.geometry.pullback import Decoder, Jacobian, in_chunks


def orthonormal(products: Float[Tensor, "k n *shape"]) -> Float[Tensor, "r n *shape"]:
    """An orthonormal basis of the span of each sample's k products, by QR in float64; r is k, or a product's values."""
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
    """The sum of the largest log singular values, sum_{i <= rank} log sigma_i(J), by a randomized SVD.

    J is projected on the range of (J J^T)^iterations J Omega (Halko, Martinsson and Tropp 2011, algorithm 4.4), with a
    QR after every product with J or J^T. arXiv 2511.20592 takes rank 20, oversampling 30 and 2 iterations.

    Args:
        decode: latents to images.
        z: latents.
        tangents: Omega, N(0, I) in latent space, r = rank + oversampling for each sample; the first D if D < r.
        memory: bytes that the products computed at once may hold.
        rank: how many singular values are summed, at most r.
        iterations: power iterations.

    Returns:
        The sum, float32. If the rank of J is below `rank`, it is -inf or sums logarithms of rounding errors.

    Raises:
        RunError: The device does not hold one product.

    Example:
        A decoder of singular values 4, 2 and 1, of which the largest two are summed:

        >>> scales, tangents = torch.tensor([4.0, 2.0, 1.0])[:, None, None], torch.eye(3).reshape(3, 1, 3, 1, 1)
        >>> truncated_distortion(lambda z: scales * z, torch.zeros(1, 3, 1, 1), tangents, memory=2**20, rank=2)  # log 8
        tensor([2.0794])
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
    """Products with J and J^T that `truncated_distortion` takes for a sample of D = `dimensions`.

    >>> truncated_products(4096, tangents=50)  # 50 in each of 6 passes
    300
    """
    return 2 * (iterations + 1) * min(tangents, dimensions)
