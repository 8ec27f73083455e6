"""Keyed randomness: every draw is a pure function of (seed, sample id, purpose).

A score then never depends on batch size, batch order, retries or the number of workers. This module needs no torch, as
those who read shards do not; draws.py makes the draws of whole batches.
"""

import hashlib

import numpy as np


def keyed_digest(seed: int, sample_id: str, purpose: str) -> bytes:
    """128 bits of BLAKE2b(seed, sample id, purpose): what keys all that is drawn for one sample and one purpose."""
    text = "\x1f".join((str(seed), sample_id, purpose)).encode()
    return hashlib.blake2b(text, digest_size=16).digest()


def keyed_generator(seed: int, sample_id: str, purpose: str) -> np.random.Generator:
    """A generator of its own for one sample and one purpose, for a few draws on the host.

    The Philox counter is keyed with the digest, so streams of different keys are independent and identical on every
    machine.
    """
    key = int.from_bytes(keyed_digest(seed, sample_id, purpose), "little")
    return np.random.Generator(np.random.Philox(key=key))
