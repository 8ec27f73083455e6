"""WebDataset shards with a manifest: a writer, and a reader that loses no sample.

A shard is a tar file that holds, for each key, an image (jpg, jpeg, png or webp) and optionally `txt` (the caption),
`cls` (the class index) and `json` (an object of metadata; several captions are in its list `captions`, of which `txt`
is the first). A shard folder has a `manifest.json` that names each shard
with its number of samples, bytes and SHA-256, so that a truncated shard is noticed: a tar cut between two entries
reads without any error.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from ldm_scale.data.manifest import ShardInfo
from ldm_scale.data.samples import Sample, encode_metadata, parse_samples
from ldm_scale.errors import RunError, one_line
from ldm_scale.files.storage import Location


def _encode(sample: Sample) -> dict[str, Any]:
    entry: dict[str, Any] = {"__key__": sample.key, sample.suffix: sample.image}
    if sample.caption is not None:
        entry["txt"] = sample.caption.encode()
    if sample.label is not None:
        entry["cls"] = str(sample.label).encode()
    if (said := encode_metadata(sample.captions, sample.metadata)) is not None:
        entry["json"] = said
    return entry


def write_shard(samples: Iterable[Sample], folder: Location, name: str) -> ShardInfo:
    """Write samples, in order, as the shard `name` of a folder, whole or not at all; equal samples give equal bytes."""
    import webdataset as wds  # imports torch: 200 MB that a reader has no use for

    buffer = io.BytesIO()
    count = 0
    with wds.TarWriter(buffer, encoder=False, mtime=0, user="", group="") as writer:
        for sample in samples:
            writer.write(_encode(sample))
            count += 1
    data = buffer.getvalue()
    (folder / name).replace(data)
    return ShardInfo(name=name, samples=count, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def read_shard(folder: Location, shard: ShardInfo) -> Iterator[Sample]:
    """The samples of one shard of a folder, in order, in constant memory; none before its SHA-256 is checked.

    Samples with a fault are among them, and are counted as the manifest counts them. The last one comes when the count
    is known to be right: who has them all has the whole shard, whatever number the manifest says.
    The shard lies on this machine's disk meanwhile; transient faults of S3 cost time and no sample.

    Raises:
        RunError: The shard is missing, is no tar file, has not the bytes and samples of its manifest, or changes.
    """
    location = folder / shard.name
    count = 0
    last: Sample | None = None
    try:
        with location.on_disk(shard.sha256, partial(_check_size, location, shard)) as (file, sha256):
            _check_size(location, shard, file.seek(0, io.SEEK_END), whole=True)
            if sha256 != shard.sha256:
                raise RunError(f"shard {location} has another SHA-256 than its manifest says; restore or repack it")
            for sample in parse_samples(file):
                if last is not None and count < shard.samples:
                    yield last
                last = sample
                count += 1
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        raise RunError(f"shard {location} cannot be read after {count} samples: {one_line(error)}") from error
    if count != shard.samples:
        raise RunError(
            f"shard {location} holds {count} samples, its manifest says {shard.samples}; restore or repack it"
        )
    if last is not None:
        yield last


def _check_size(location: Location, shard: ShardInfo, size: int, whole: bool = False) -> None:
    """Raise RunError for more bytes than the manifest says, and for fewer of a whole shard."""
    if size > shard.bytes or (whole and size < shard.bytes):
        raise RunError(f"shard {location} has {size} bytes, its manifest says {shard.bytes}; restore or repack it")
