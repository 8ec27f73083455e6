"""Shards for tests that start from samples."""

import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from ldm_scale.data.manifest import Manifest, ShardInfo, write_manifest
from ldm_scale.data.samples import Sample
from ldm_scale.data.shards import write_shard
from ldm_scale.files.storage import Location


def tar(files: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> bytes:
    """A tar of these files, each by its name or by a header of another kind."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for named, data in files:
            info = tarfile.TarInfo(named) if isinstance(named, str) else named
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write_folder(folder: Path, shards: Mapping[str, tuple[bytes, int]], classes: tuple[str, ...] = ()) -> Path:
    """A shard folder of such tars, each with its number of samples, and the manifest that describes them."""
    infos = []
    for name, (data, samples) in shards.items():
        Location.of(folder / name).create(data)
        sha256 = hashlib.sha256(data).hexdigest()
        infos.append(ShardInfo(name=name, samples=samples, bytes=len(data), sha256=sha256))
    write_manifest(Location.of(folder), Manifest(shards=tuple(infos), classes=classes))
    return folder


def write_shards(
    samples: Iterable[Sample], folder: Location, prefix: str, max_samples: int = 10_000
) -> list[ShardInfo]:
    """Samples, in order, as `<prefix>/<prefix>-000000.tar` and so on."""
    every = list(samples)
    runs = [every[start : start + max_samples] for start in range(0, len(every), max_samples)]
    return [write_shard(run, folder, f"{prefix}/{prefix}-{number:06d}.tar") for number, run in enumerate(runs)]
