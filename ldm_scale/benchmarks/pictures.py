"""The shipped demo's pictures as what an auditor takes."""

from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Bool, UInt8

from ldm_scale.config.base import DEMO
from ldm_scale.config.data import ImageConfig
from ldm_scale.data.images import open_image, preprocess
from ldm_scale.data.manifest import read_manifest
from ldm_scale.data.shards import read_shard
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location
from ldm_scale.schema import sample_id


@dataclass(frozen=True)
class Pictures:
    """n pictures, every other one a member, with their sample ids."""

    pixels: UInt8[np.ndarray, "n 3 H W"]
    ids: tuple[str, ...]
    member: Bool[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, some: slice) -> "Pictures":
        return Pictures(self.pixels[some], self.ids[some], self.member[some])

    def batches(self, size: int) -> list["Pictures"]:
        """They, so many at a time."""
        return [self[start : start + size] for start in range(0, len(self), size)]


def demo_pictures(count: int, side: int, shards_in: str = str(DEMO / "shards")) -> Pictures:
    """The first `count` of the demo's 1,200 pictures, member and held-out by turns, resized to a side in pixels.

    Or of another folder of shards.

    Raises:
        UsageError: There are not so many.
    """
    folder = Location.of(shards_in)
    shards, options = read_manifest(folder).shards, ImageConfig()

    def of(wanted: str, first: int) -> list[tuple[str, np.ndarray]]:
        samples = ((shard, one) for shard in shards if shard.side == wanted for one in read_shard(folder, shard))
        return [
            (sample_id(shard.stem, one.key), preprocess(open_image(one.image, options.max_pixels), options, side))
            for shard, one in islice(samples, first)
        ]

    half = -(-count // 2)
    turns = [one for pair in zip(of("members", half), of("heldout", half), strict=False) for one in pair][:count]
    if len(turns) < count:
        raise UsageError(f"shards {shards_in} hold {len(turns)} pictures, in pairs of a member and a held-out one")
    ids, pixels = zip(*turns, strict=True)
    return Pictures(np.stack(pixels), ids, np.arange(count) % 2 == 0)
