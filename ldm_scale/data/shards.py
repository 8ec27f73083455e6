"""WebDataset shards with a manifest: a writer, and a reader that loses no sample.

A shard is a tar file that holds, for each key, an image (jpg, jpeg, png or webp) and optionally `txt` (the caption),
`cls` (the class index) and `json` (an object of metadata). A shard folder has a `manifest.json` that names each shard
with its number of samples, bytes and SHA-256, so that a truncated shard is noticed: a tar cut on a member boundary
reads without any error.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import webdataset as wds
from webdataset.tariterators import group_by_keys, tar_file_iterator

from ldm_scale.data.manifest import ShardInfo
from ldm_scale.errors import RunError, one_line
from ldm_scale.storage import Location

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class Sample:
    """One image as stored: its key, encoded bytes and their suffix, and what is known about it."""

    key: str
    image: bytes
    suffix: str
    caption: str | None = None
    label: int | None = None
    metadata: dict[str, Any] | None = None


def _encode(sample: Sample) -> dict[str, Any]:
    entry: dict[str, Any] = {"__key__": sample.key, sample.suffix: sample.image}
    if sample.caption is not None:
        entry["txt"] = sample.caption.encode()
    if sample.label is not None:
        entry["cls"] = str(sample.label).encode()
    if sample.metadata is not None:
        entry["json"] = json.dumps(sample.metadata, sort_keys=True).encode()
    return entry


def write_shard(samples: Iterable[Sample], folder: Location, name: str) -> ShardInfo:
    """Write samples, in order, as the shard `name` of a folder, whole or not at all; equal samples give equal bytes."""
    buffer = io.BytesIO()
    count = 0
    with wds.TarWriter(buffer, encoder=False, mtime=0, user="", group="") as writer:
        for sample in samples:
            writer.write(_encode(sample))
            count += 1
    data = buffer.getvalue()
    (folder / name).replace(data)
    return ShardInfo(name=name, samples=count, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def as_metadata(data: bytes) -> dict[str, Any] | None:
    """The JSON object in some bytes, or None: nothing rests on metadata, so bad ones are no reason to lose a sample."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def as_label(data: bytes) -> int | None:
    """The class index in some bytes, or None where they are no number of 64 bits."""
    return int(data) if data.strip().isdigit() and len(data.strip()) < 19 else None


def _decode(entry: dict[str, Any]) -> Sample:
    suffix = next((name for name in IMAGE_SUFFIXES if name in entry), "")
    caption = entry["txt"].decode("utf-8", errors="replace") if "txt" in entry else None
    label = as_label(entry.get("cls", b""))
    metadata = as_metadata(entry["json"]) if "json" in entry else None
    # A sample without an image is kept, with no bytes: it is rejected by name where images are decoded.
    return Sample(entry["__key__"], entry.get(suffix, b""), suffix, caption, label, metadata)


def _parse(stream: BinaryIO, name: str) -> Iterator[Sample]:
    files = ({**file, "__url__": name} for file in tar_file_iterator(stream, skip_meta=None))
    return map(_decode, group_by_keys(files))


def read_shard(folder: Location, shard: ShardInfo) -> Iterator[Sample]:
    """The samples of one shard of a folder, in order, in constant memory; none before its SHA-256 is checked.

    The shard lies on this machine's disk meanwhile; transient faults of S3 cost time and no sample.
    Raises RunError where the shard is missing, is no tar file, or has not the bytes and samples of its manifest.
    """
    location = folder / shard.name
    count = 0
    try:
        with location.on_disk() as (file, sha256):
            _check(location, shard, file.seek(0, io.SEEK_END), sha256)
            file.seek(0)
            for sample in _parse(file, location.uri):
                count += 1
                yield sample
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        raise RunError(f"shard {location} cannot be read after {count} samples: {one_line(error)}") from error
    if count != shard.samples:
        raise RunError(
            f"shard {location} holds {count} samples, its manifest says {shard.samples}; restore or repack it"
        )


def _check(location: Location, shard: ShardInfo, size: int, sha256: str) -> None:
    if size != shard.bytes:
        raise RunError(f"shard {location} has {size} bytes, its manifest says {shard.bytes}; restore or repack it")
    if sha256 != shard.sha256:
        raise RunError(f"shard {location} has another SHA-256 than its manifest says; restore or repack it")
