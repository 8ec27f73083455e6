"""The manifest of a shard folder: each shard with its number of samples, bytes and SHA-256."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import Annotated

from pydantic import FailFast, Field, field_validator

from ldm_scale.config.base import Record
from ldm_scale.errors import UsageError
from ldm_scale.files.digests import digest
from ldm_scale.files.storage import Location, read_model

MANIFEST = "manifest.json"
# Logarithm of a ratio of bytes that is not worth a word, however many samples there are.
LEAST_RATIO = 0.05


def stem_of(name: str) -> str:
    """A shard's name without folder and suffix: the first part of its samples' ids."""
    return name.rsplit("/", 1)[-1].removesuffix(".tar")


def check_stems(names: Iterable[str], where: str) -> None:
    """Raise UsageError if two shards share a stem; `where` begins the message."""
    stem, count = next(iter(Counter(map(stem_of, names)).most_common(1)), ("", 0))
    if count > 1:
        raise UsageError(f"{where} two shards named {stem}; sample ids would clash")


class ShardInfo(Record):
    """One shard of a manifest; `name` is its path relative to the manifest's folder."""

    name: str
    samples: int = Field(ge=0, lt=2**63)
    bytes: int = Field(ge=0, lt=2**63)
    sha256: str

    @field_validator("name")
    @classmethod
    def _inside(cls, name: str) -> str:
        """The name of a file below the folder: no absolute path, no other address, no step upwards."""
        if {"", ".", ".."} & set(name.split("/")):
            raise ValueError(f"the shard name {name[:100]!r} is not that of a file below the folder")
        return name

    @property
    def side(self) -> str:
        """The folder it lies in: members, heldout, or neither."""
        return self.name.split("/")[0]

    @property
    def stem(self) -> str:
        """The first part of its samples' ids."""
        return stem_of(self.name)


class Manifest(Record):
    """What a shard folder holds: its shards, class names, and how members and held-out were chosen."""

    format: int = 1
    # The first error is enough: one of each of a million entries would fill memory.
    shards: Annotated[tuple[ShardInfo, ...], FailFast()]
    classes: Annotated[tuple[str, ...], FailFast()] = ()
    split: str = ""
    split_sha256: str = ""

    @property
    def sha256(self) -> str:
        """A digest of the shards' digests, in their order."""
        return digest([shard.sha256 for shard in self.shards])

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    def encode(self) -> bytes:
        """The bytes of its file."""
        return json.dumps(self.model_dump(), indent=1).encode()


def bytes_apart(manifest: Manifest) -> str | None:
    """That the samples of one side take more bytes in the shards, if they do by more than chance explains.

    Who knows only the shards takes the bytes of samples to vary by as much as their mean: by three standard errors.

    >>> def shard(side, size): return ShardInfo(name=f"{side}/{side}.tar", samples=300, bytes=300 * size, sha256="")
    >>> bytes_apart(Manifest(shards=(shard("members", 4000), shard("heldout", 3000))))
    'the shards hold 4,000 bytes a member and 3,000 a held-out sample'
    >>> bytes_apart(Manifest(shards=(shard("members", 4000), shard("heldout", 3300))))
    """
    totals = dict.fromkeys(("members", "heldout"), (0, 0))
    for shard in manifest.shards:
        if shard.side in totals:
            samples, size = totals[shard.side]
            totals[shard.side] = samples + shard.samples, size + shard.bytes
    (members, ours), (heldout, theirs) = totals.values()
    if not (members and heldout and ours and theirs):
        return None
    ratio = math.log(ours / members / (theirs / heldout))
    if abs(ratio) < max(LEAST_RATIO, 3 * math.sqrt(1 / members + 1 / heldout)):
        return None
    return f"the shards hold {ours / members:,.0f} bytes a member and {theirs / heldout:,.0f} a held-out sample"


def read_manifest(folder: Location) -> Manifest:
    """The manifest of a shard folder.

    Raises:
        UsageError: The folder or its manifest is missing, empty or malformed, or two shards share a stem.
    """
    if not (folder / MANIFEST).is_file():
        folder.expect("shard folder")
        above = Location(folder.uri.rpartition("/")[0])
        if (above / MANIFEST).is_file():
            raise UsageError(f"shard folder {folder} holds no {MANIFEST}, but the folder above it does: give {above}")
        raise UsageError(
            f"shard folder {folder} holds no {MANIFEST}; make one with "
            f"`ldm-scale validate --shards '{folder}' --write-manifest`"
        )
    return parse_manifest(folder / MANIFEST)


def parse_manifest(file: Location) -> Manifest:
    """The manifest in a file.

    Raises:
        UsageError: It is empty or malformed, or two shards share a stem.
    """
    manifest = read_model(file, Manifest, "a shard manifest")
    if not manifest.samples:
        raise UsageError(f"{file} lists no samples")
    check_stems((shard.name for shard in manifest.shards), f"{file} lists")
    return manifest


def write_manifest(folder: Location, manifest: Manifest) -> None:
    """Write `manifest.json`; raises UsageError if there is one already."""
    (folder / MANIFEST).create(manifest.encode())
