"""The pictures of a few samples, read from their shards and encoded again; a missing one has a reason instead."""

import base64
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ldm_scale.data.addresses import open_shards
from ldm_scale.data.images import BadImage, encode_png, open_image
from ldm_scale.data.manifest import Manifest, ShardInfo
from ldm_scale.data.samples import Sample
from ldm_scale.data.shards import read_shard
from ldm_scale.errors import RunError, UsageError
from ldm_scale.files.rundir import RunRecord
from ldm_scale.files.storage import Location

# Pixels of the longer side, at most; smaller pictures stay as they are.
SIDE = 256
# What an unreachable folder, bucket or shard raises.
UNREACHABLE = (UsageError, RunError, OSError)


@dataclass(frozen=True)
class Picture:
    """A stored picture as a PNG data URI (or the reason why there is none), its caption and class name."""

    uri: str | None = None
    reason: str = ""
    caption: str | None = None
    label: str | None = None


def _picture(sample: Sample, manifest: Manifest, max_pixels: int) -> Picture:
    label = None
    if sample.label is not None:
        known = 0 <= sample.label < len(manifest.classes)
        label = manifest.classes[sample.label] if known else f"class {sample.label}"
    try:
        image = open_image(sample.image, max_pixels).convert("RGB")
    except BadImage as error:
        # Details after the colon may hold a memory address: another one each time.
        return Picture(reason=str(error).split(":")[0], caption=sample.caption, label=label)
    image.thumbnail((SIDE, SIDE))
    # Pixels only: Pillow would carry a stored colour profile over into the new file.
    png = encode_png(Image.fromarray(np.asarray(image)))
    return Picture(uri="data:image/png;base64," + base64.b64encode(png).decode(), caption=sample.caption, label=label)


def _read(folder: Location, shard: ShardInfo, keys: set[str]) -> dict[str, Sample]:
    """The samples of those keys; reads no further than the last of them."""
    found: dict[str, Sample] = {}
    for sample in read_shard(folder, shard):
        if sample.key in keys:
            found[sample.key] = sample
        if len(found) == len(keys):
            break
    return found


def _read_shard_pictures(
    folder: Location, manifest: Manifest, stem: str, keys: set[str], max_pixels: int
) -> dict[str, Picture]:
    shard = next((shard for shard in manifest.shards if shard.stem == stem), None)
    if shard is None:
        return {key: Picture(reason="no shard of that name") for key in keys}
    try:
        samples = _read(folder, shard, keys)
    except UNREACHABLE as error:
        return {key: Picture(reason=str(error)) for key in keys}
    missing = {key: Picture(reason="no such key in its shard") for key in keys - samples.keys()}
    return missing | {key: _picture(sample, manifest, max_pixels) for key, sample in samples.items()}


def read_pictures(sample_ids: Iterable[str], record: RunRecord) -> dict[str, Picture]:
    """Sample id to picture, each shard read once. Nothing is raised: a picture that cannot be read has a reason."""
    by_stem: dict[str, set[str]] = defaultdict(set)
    for sample_id in sample_ids:
        stem, _, key = sample_id.partition("/")
        by_stem[stem].add(key)
    ids = [f"{stem}/{key}" for stem, keys in by_stem.items() for key in keys]
    try:
        shards = open_shards(record.config.shards, record.config.manifest)
    except UNREACHABLE as error:
        return {sample_id: Picture(reason=str(error)) for sample_id in ids}
    if shards.manifest.sha256 != record.science.get("shards"):
        return {sample_id: Picture(reason="the shards have changed since the audit") for sample_id in ids}
    max_pixels = record.config.images.max_pixels
    return {
        f"{stem}/{key}": picture
        for stem, keys in by_stem.items()
        for key, picture in _read_shard_pictures(shards.folder, shards.manifest, stem, keys, max_pixels).items()
    }
