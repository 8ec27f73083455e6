"""Keyed randomness: every draw is a pure function of (seed, sample id, purpose).

A score then never depends on batch size, batch order, retries or the number of workers.
"""

import hashlib

import numpy as np


def keyed_generator(seed: int, sample_id: str, purpose: str) -> np.random.Generator:
    """A generator of its own for one sample and one purpose.

    The Philox counter is keyed with 128 bits of BLAKE2b(seed, sample id, purpose), so streams of different keys are
    independent and identical on every machine and device.
    """
    text = "\x1f".join((str(seed), sample_id, purpose)).encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))


def keyed_normal(seed: int, sample_id: str, purpose: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal draws, float32, of the given shape."""
    return keyed_generator(seed, sample_id, purpose).standard_normal(shape, dtype=np.float32)


def keyed_permutation(seed: int, sample_id: str, purpose: str, size: int) -> np.ndarray:
    """A uniformly random order of 0 ... size - 1, int64."""
    return keyed_generator(seed, sample_id, purpose).permutation(size)
