"""Keyed draws of whole batches, made on the device that uses them: identical streams on every device, bit for bit.

They take only integer operations, table look-ups and one addition, which every device rounds alike.
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

# The name of these draws. Part of a run's fingerprint: a run goes on with the draws that it began with, or not at all.
DRAWS = "philox4x32-10, 0.6 Q + 0.8 Q"

WORD = 0xFFFFFFFF
ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
HALF = 0xFFFF
# Blocks of four words made at a time: as many as a CPU's cache holds; elsewhere some 64 MB, as every launch costs.
BLOCKS = {"cpu": 2**15}
BLOCKS_ELSEWHERE = 2**20

Words = Int[Tensor, "..."]


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> Int[Tensor, "... 4"]:
    """Philox4x32-10: four random words from four words of counter and two of key.

    Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

    Args:
        counter: int64, 0 to 2^32 - 1; the four and the key broadcast.
        key: likewise.

    Returns:
        The words' 32 bits, as int32.

    Example:
        The first of the authors' known answers, 6627e8d5 e169c58d bc57ac4c 9b00dbd8:

        >>> zero = torch.tensor(0)
        >>> [f"{word & WORD:x}" for word in philox((zero,) * 4, (zero,) * 2).tolist()]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    x0, x1, x2, x3 = counter
    for turn in range(ROUNDS):
        k0, k1 = key[0] + turn * WEYL[0], key[1] + turn * WEYL[1]
        # int64 wraps, so the products keep all 64 bits. The mask drops what x1, x3, k0 and k1 have above 32 bits.
        p0, p1 = x0 * MULTIPLIERS[0], x2 * MULTIPLIERS[1]
        x0, x1, x2, x3 = (p1 >> 32 ^ x1 ^ k0) & WORD, p1, (p0 >> 32 ^ x3 ^ k1) & WORD, p0
    return torch.stack([word.int() for word in (x0, x1, x2, x3)], dim=-1)


def _words(
    seed: int, sample_ids: Sequence[str], purpose: str, count: int, device: torch.device
) -> Iterator[tuple[int, Int[Tensor, "n some"]]]:
    """The first `count` words of each sample's stream, in pieces of bounded size, each after the index of its first.

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
    """Uniform 32-bit words for each sample.

    Args:
        seed: of the run.
        sample_ids: n of them.
        purpose: what they are drawn for; each purpose has a stream of its own.
        count: words for each sample. A longer draw begins with a shorter one.
        device: on which they are made.

    Returns:
        int32, -2^31 to 2^31 - 1.

    Example:
        >>> keyed_words(0, ["shard-000000/cat"], "random mask", 3, torch.device("cpu")).tolist()
        [[-722216913, -1670198600, -1689609777]]
    """
    return torch.cat([words for _, words in _words(seed, sample_ids, purpose, count, device)], dim=1)


def quantiles() -> Float[np.ndarray, " 65536"]:
    """Standard normal quantiles at (i + 1/2) / 65,536, ascending, float64.

    The outermost two stand for the whole tails beyond them: they are moved to 4.40, from 4.32, for a variance of 1.

    >>> Q = quantiles()
    >>> print(f"{Q[-1]:.4f} {Q[-2]:.4f} {Q.mean():.1f} {Q.var():.1f}")
    4.4011 4.0762 0.0 1.0
    """
    lower = ndtri((np.arange(2**15) + 0.5) / 2**16)
    lower[0] = -np.sqrt(2**15 - np.square(lower[1:]).sum())
    return np.concatenate([lower, -lower[::-1]])


@cache
def _tables(device: torch.device) -> tuple[Float[Tensor, " 65536"], Float[Tensor, " 65536"]]:
    """What the lower and what the upper half of a word adds to a normal draw; computed on the CPU for every device."""
    lower, upper = (torch.from_numpy((weight * quantiles()).astype(np.float32)).to(device) for weight in (0.6, 0.8))
    return lower, upper


def keyed_normal(
    seed: int, sample_ids: Sequence[str], purpose: str, shape: tuple[int, ...], device: torch.device
) -> Float[Tensor, "n ..."]:
    """Standard normal draws for each sample: 0.6 Q[lower 16 bits] + 0.8 Q[upper 16 bits] of a word, Q of `quantiles`.

    This is a weighted sum of two nearly normal numbers; the weights' squares add up to 1. (With equal weights, one draw
    in 65,536 would be exactly 0.) The logarithms and cosines of Box and Muller's method would differ in their last bits
    from device to device.

    This departs from N(0, 1) by less than 2.5e-6 in the distribution function (2e-7 at points where it was computed),
    by -2e-5, -2e-4 and -7e-4 of the moments of order 4, 6 and 8, and in the tails: P(|x| > 4) is 0.3% and P(|x| > 5)
    14% too small, and no draw is beyond 6.17.

    Args:
        seed, sample_ids, purpose, device: as of `keyed_words`.
        shape: of one sample's draw.

    Returns:
        (n, *shape), float32.

    Example:
        >>> keyed_normal(0, ["shard-000000/cat"], "probes", (3,), torch.device("cpu"))
        tensor([[0.3906, 0.3037, 0.6904]])
    """
    count = math.prod(shape)
    lower, upper = _tables(device)
    draws = torch.empty((len(sample_ids), count), device=device)
    for start, words in _words(seed, sample_ids, purpose, count, device):
        low = lower.index_select(0, (words & HALF).flatten())
        high = upper.index_select(0, (words >> 16 & HALF).flatten())
        torch.add(low.view_as(words), high.view_as(words), out=draws[:, start : start + words.shape[1]])
    return draws.view(-1, *shape)
