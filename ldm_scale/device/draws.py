"""Keyed draws of whole batches, made on the device that uses them: identical streams on every device, bit for bit.

Only integer operations, table look-ups and one addition make them, which no device may round in a way of its own.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import ndtri
from torch import Tensor

from ldm_scale.randomness import keyed_digest

# Which draws these are. Part of a run's fingerprint: a run goes on with the draws that it began with, or not at all.
DRAWS = "philox4x32-10, 0.6 Q + 0.8 Q"

WORD = 0xFFFFFFFF
ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
HALF = 0xFFFF
# Blocks of four words made at a time: as many as a CPU's cache holds; elsewhere, as every launch costs, some 64 MB.
BLOCKS = {"cpu": 2**15}
BLOCKS_ELSEWHERE = 2**20

Words = Int[Tensor, "..."]


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> Int[Tensor, "... 4"]:
    """Philox4x32-10: four random words from four words of counter and two of key, all of which broadcast.

    Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. counter, key: int64, 0 to
    2^32 - 1. Returns the words' 32 bits, as int32.
    """
    x0, x1, x2, x3 = counter
    for turn in range(ROUNDS):
        k0, k1 = key[0] + turn * WEYL[0], key[1] + turn * WEYL[1]
        # All 64 bits of the products, as int64 wraps. What x1, x3, k0 and k1 have above 32 bits, the mask takes away.
        p0, p1 = x0 * MULTIPLIERS[0], x2 * MULTIPLIERS[1]
        x0, x1, x2, x3 = (p1 >> 32 ^ x1 ^ k0) & WORD, p1, (p0 >> 32 ^ x3 ^ k1) & WORD, p0
    return torch.stack([word.int() for word in (x0, x1, x2, x3)], dim=-1)


def _words(
    seed: int, sample_ids: Sequence[str], purpose: str, count: int, device: torch.device
) -> Iterator[tuple[int, Int[Tensor, "n some"]]]:
    """The first `count` words of each sample's stream, in pieces of bounded size, each with where it begins.

    Block b of a stream has the digest's lower half as key and, as counter, b below the digest's upper half.
    """
    digests = b"".join(keyed_digest(seed, sample_id, purpose) for sample_id in sample_ids)
    digest = torch.from_numpy(np.frombuffer(digests, "<u4").astype(np.int64)).to(device)
    k0, k1, c2, c3 = digest.view(-1, 4, 1).unbind(1)
    blocks = math.ceil(count / 4)
    step = max(1, BLOCKS.get(device.type, BLOCKS_ELSEWHERE) // len(sample_ids))
    for start in range(0, blocks, step):
        b = torch.arange(start, min(start + step, blocks), device=device)
        yield 4 * start, philox((b & WORD, b >> 32, c2, c3), (k0, k1)).flatten(1)[:, : count - 4 * start]


def keyed_words(
    seed: int, sample_ids: Sequence[str], purpose: str, count: int, device: torch.device
) -> Int[Tensor, "n {count}"]:
    """Uniform 32-bit words for each sample, int32 (-2^31 to 2^31 - 1), on the device."""
    return torch.cat([words for _, words in _words(seed, sample_ids, purpose, count, device)], dim=1)


def quantiles() -> Float[np.ndarray, " 65536"]:
    """Standard normal quantiles at (i + 1/2) / 65,536, of mean 0 and variance 1, ascending, float64.

    The outermost two stand for all of the tails beyond them: they lie where the variance becomes 1, at 4.40, not 4.32.
    """
    lower = ndtri((np.arange(2**15) + 0.5) / 2**16)
    lower[0] = -np.sqrt(2**15 - np.square(lower[1:]).sum())
    return np.concatenate([lower, -lower[::-1]])


@cache
def _tables(device: torch.device) -> tuple[Float[Tensor, " 65536"], Float[Tensor, " 65536"]]:
    """What the lower and what the upper half of a word adds to a normal draw; of the CPU's making on every device."""
    lower, upper = (torch.from_numpy((weight * quantiles()).astype(np.float32)).to(device) for weight in (0.6, 0.8))
    return lower, upper


def keyed_normal(
    seed: int, sample_ids: Sequence[str], purpose: str, shape: tuple[int, ...], device: torch.device
) -> Float[Tensor, "n ..."]:
    """Standard normal draws of this shape for each sample, float32, on the device.

    A word gives 0.6 Q[its lower 16 bits] + 0.8 Q[its upper 16 bits], Q as in `quantiles`: a weighted sum of two nearly
    normal numbers, the weights' squares adding up to 1. (Of equal weights, one draw in 65,536 would be exactly 0.)
    Box and Muller's logarithms and cosines would differ in their last bits from device to device.

    This departs from N(0, 1) by less than 2.5e-6 in the distribution function (2e-7 at points where it was computed),
    by -2e-5, -2e-4 and -7e-4 of the moments of order 4, 6 and 8, and in the tails: P(|x| > 4) is 0.3% and P(|x| > 5)
    14% too small, and no draw is beyond 6.17.
    """
    count = math.prod(shape)
    lower, upper = _tables(device)
    draws = torch.empty((len(sample_ids), count), device=device)
    for start, words in _words(seed, sample_ids, purpose, count, device):
        low = lower.index_select(0, (words & HALF).flatten())
        high = upper.index_select(0, (words >> 16 & HALF).flatten())
        torch.add(low.view_as(words), high.view_as(words), out=draws[:, start : start + words.shape[1]])
    return draws.view(-1, *shape)
