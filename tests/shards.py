"""Shards for tests that start from samples."""

from collections.abc import Iterable

from ldm_scale.data.manifest import ShardInfo
from ldm_scale.data.shards import Sample, write_shard
from ldm_scale.storage import Location


def write_shards(
    samples: Iterable[Sample], folder: Location, prefix: str, max_samples: int = 10_000
) -> list[ShardInfo]:
    """Samples, in order, as `<prefix>/<prefix>-000000.tar` and so on."""
    every = list(samples)
    runs = [every[start : start + max_samples] for start in range(0, len(every), max_samples)]
    return [write_shard(run, folder, f"{prefix}/{prefix}-{number:06d}.tar") for number, run in enumerate(runs)]
