"""Keyed randomness: every draw is a pure function of (seed, sample id, purpose).

So a score never depends on batch size, batch order, retries or the number of workers. This module needs no torch, as
readers of shards have no use for it; device/draws.py makes the draws of whole batches.
"""

import hashlib

import numpy as np


def keyed_digest(seed: int, sample_id: str, purpose: str) -> bytes:
    """128 bits of BLAKE2b(seed, sample id, purpose): the key of all draws for one sample and one purpose.

    >>> keyed_digest(0, "shard-000000/cat", "probes").hex()
    'a7d6eb3a7599d58236f6a37aeb977edb'
    """
    text = "\x1f".join((str(seed), sample_id, purpose)).encode()
    return hashlib.blake2b(text, digest_size=16).digest()


def keyed_generator(seed: int, sample_id: str, purpose: str) -> np.random.Generator:
    """A generator for one sample and one purpose, for a few draws on the host.

    NumPy's Philox, keyed with the digest: streams of different keys are independent, and the same on every machine.

    >>> print(f"{keyed_generator(0, 'shard-000000/cat', 'probes').random():.6f}")
    0.992039
    """
    key = int.from_bytes(keyed_digest(seed, sample_id, purpose), "little")
    return np.random.Generator(np.random.Philox(key=key))
