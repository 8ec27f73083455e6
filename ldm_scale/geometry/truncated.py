"""Truncated distortion: the sum of the largest log singular values of J, from as many products as they need."""

import torch
from jaxtyping import Float
from torch import Tensor

from ldm_scale.geometry.bidiagonal import Bidiagonal, go_on
from ldm_scale.geometry.pullback import Decoder, Jacobian, in_chunks


def round_steps(rank: int) -> int:
    """Steps after which the R = `rank` singular values are looked at again.

    >>> [round_steps(rank) for rank in (1, 20, 50)]
    [5, 5, 12]
    """
    return max(5, rank // 4)


def first_steps(rank: int) -> int:
    """Steps after which they are looked at for the first time; fewer hardly ever do.

    >>> first_steps(20)
    40
    """
    return rank + 4 * round_steps(rank)


def most_steps(rank: int) -> int:
    """Steps after which a run ends all the same, with as many products as the paper takes.

    arXiv 2511.20592 has 2 power iterations of R + 30 vectors, thus 3 products of each with J and 3 with J^T (Halko,
    Martinsson and Tropp 2011, algorithm 4.4).

    >>> most_steps(20)
    150
    """
    return 3 * (rank + 30)


def log_volumes(runs: Bidiagonal, rank: int, steps: int) -> Float[Tensor, " n"]:
    """The sum of the logarithms of the `rank` largest singular values that each sample's one run found in its steps."""
    matrix = runs.matrix()[0, :, :steps, :steps]
    # One sample's products that are not finite would fail the factorisation of all.
    finite = matrix.isfinite().all(-1).all(-1)
    volumes = torch.linalg.svdvals(torch.where(finite[:, None, None], matrix, 0))[:, :rank].log().sum(-1)
    return torch.where(finite, volumes, torch.nan)


def truncated_distortion(
    decode: Decoder,
    z: Float[Tensor, "n c h w"],
    starts: Float[Tensor, "n c h w"],
    memory: int,
    rank: int = 20,
    tolerance: float = 0.001,
) -> Float[Tensor, " n"]:
    """The sum of the largest log singular values, sum_{i <= rank} log sigma_i(J), by a Krylov space of one vector.

    The singular values of B after m steps of Golub and Kahan are the best that the space of m products with G allows,
    and grow with m. One vector finds as much as a block of many from the same products (Meyer, Musco and Musco, SODA
    2024). A sample's run ends when a round of steps has raised these singular values by less than `tolerance`.

    Args:
        starts: N(0, I) in latent space.
        rank: how many singular values are summed; D if that is less.
        tolerance: by how much a round must raise their geometric mean, as a share of it, for another to follow.

    Returns:
        The sum, float32, never above the true one but for rounding. If the rank of J is below `rank`, it is -inf or
        sums logarithms of rounding errors.

    Raises:
        RunError: The device does not hold one product.

    Example:
        A decoder of singular values 4, 2 and 1, of which the largest two are summed:

        >>> scales, starts = torch.tensor([4.0, 2.0, 1.0])[:, None, None], torch.ones(1, 3, 1, 1)
        >>> truncated_distortion(lambda z: scales * z, torch.zeros(1, 3, 1, 1), starts, memory=2**20, rank=2)  # log 8
        tensor([2.0794])
    """
    distortion = torch.full((len(z),), torch.nan, device=z.device)
    going, runs, steps = torch.arange(len(z), device=z.device), Bidiagonal.begin(starts[None]), first_steps(rank)
    most = min(most_steps(rank), z[0].numel())
    while len(going):
        runs = _continued(decode, z[going], runs, min(steps, most), memory)
        last, before = (log_volumes(runs, rank, count) for count in (runs.steps, runs.steps - round_steps(rank)))
        # Not finite, it neither rises nor is worth another round.
        ended = ~(last - before >= tolerance * rank) | (steps >= most)
        distortion[going[ended]] = last[ended].float()
        going, runs, steps = going[~ended], runs.at(~ended), steps + round_steps(rank)
    return distortion


def _continued(decode: Decoder, z: Float[Tensor, "n c h w"], runs: Bidiagonal, steps: int, memory: int) -> Bidiagonal:
    """The runs after so many steps in all."""

    def some(jacobian: Jacobian, places: Tensor) -> Bidiagonal:
        return go_on(jacobian, runs.at(places[0]), steps - runs.steps)

    return Bidiagonal.join(in_chunks(some, decode, z, torch.arange(len(z), device=z.device)[None], memory))


def usual_steps(dimensions: int, rank: int) -> int:
    """Steps that a sample of D = `dimensions` takes, about: each is a product with J and one with J^T.

    As measured on trained decoders; a flatter spectrum takes more.

    >>> [usual_steps(4096, rank) for rank in (20, 50)]
    [50, 95]
    """
    return min(3 * rank // 2 + 20, dimensions)


def usual_rounds(dimensions: int, rank: int) -> int:
    """Rounds in which it takes them; each linearises the decoder anew.

    >>> [usual_rounds(4096, rank) for rank in (20, 50)]
    [3, 1]
    """
    return 1 + max(0, -(-(usual_steps(dimensions, rank) - first_steps(rank)) // round_steps(rank)))
