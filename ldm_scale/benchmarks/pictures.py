"""The shipped demo's pictures as what an auditor takes, and made-up ones in shards."""

import io
import math
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from ldm_scale.config.base import DEMO
from ldm_scale.config.data import ImageConfig
from ldm_scale.data.images import open_image, preprocess
from ldm_scale.data.manifest import Manifest, read_manifest, write_manifest
from ldm_scale.data.samples import Sample
from ldm_scale.data.shards import read_shard, write_shard
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location
from ldm_scale.schema import sample_id

# Of the JPEGs that are made.
QUALITY = 90


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


def make_picture(seed: int, side: int) -> bytes:
    """A JPEG of smoothed noise, coarse and fine as in photographs: the finer, the fainter."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((side, side, 3), np.float32)
    for cells in (2**power for power in range(2, math.ceil(math.log2(side)) + 1)):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        picture += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC), np.float32) / cells
    picture = 255 * (picture - picture.min()) / np.ptp(picture)
    buffer = io.BytesIO()
    Image.fromarray(picture.astype(np.uint8)).save(buffer, "jpeg", quality=QUALITY)
    return buffer.getvalue()


def make_shards(folder: Location, samples: int, shards: int, pictures: list[bytes]) -> None:
    """So many shards of the pictures in turn, half of them members."""
    bounds = np.linspace(0, samples, shards + 1).astype(int)
    infos = []
    for shard, (first, last) in enumerate(pairwise(bounds)):
        side = "members" if shard % 2 else "heldout"
        images = (Sample(key=f"{i:08d}", image=pictures[i % len(pictures)], suffix="jpg") for i in range(first, last))
        infos.append(write_shard(images, folder, f"{side}/{side}-{shard:06d}.tar"))
    write_manifest(folder, Manifest(shards=tuple(infos)))
