"""What a shard really holds, against its manifest: every byte read once, a draw of its images decoded."""

import io
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8

from ldm_scale.config.data import ImageConfig
from ldm_scale.data.images import BadImage, open_image, preprocess, size_of
from ldm_scale.data.manifest import ShardInfo, stem_of
from ldm_scale.data.plain import plain_features
from ldm_scale.data.samples import LIMITS, Entry, Sample, as_sample, group_entries, read_entries
from ldm_scale.errors import one_line
from ldm_scale.files.storage import Location
from ldm_scale.randomness import keyed_generator
from ldm_scale.schema import sample_id

# Pixels a side at which the colours of an image are looked at, as no target says how it sees them.
LOOKED_AT = 64


@dataclass
class Inspection:
    """What was found in one shard or in several.

    files: files by suffix, and "other" ones that are not read. conditions: samples that are not rejected as they are
    read, by whether they have a caption and by class index. captions: the fewest and the most of one sample. sides:
    shortest and longest side of the decoded images.
    problems: what is wrong, with how many samples and the first of them. shards: what a manifest says of the shards
    that could be read and hold samples. plain: what is plain of each sample that is not rejected as it is read
    (schema.PLAIN), by its id; colours of the decoded ones alone.
    """

    keys: list[str] = field(default_factory=list)
    files: Counter[str] = field(default_factory=Counter)
    conditions: Counter[tuple[bool, int | None]] = field(default_factory=Counter)
    captions: tuple[int, int] | None = None
    sides: tuple[int, int] | None = None
    decoded: int = 0
    problems: dict[str, tuple[int, str]] = field(default_factory=dict)
    shards: list[ShardInfo] = field(default_factory=list)
    plain: dict[str, Float[np.ndarray, " f"]] = field(default_factory=dict)

    def complain(self, problem: str, where: str, count: int = 1) -> None:
        """Count a problem; the first place is kept."""
        before, first = self.problems.get(problem, (0, where))
        self.problems[problem] = (before + count, first)

    def add(self, other: "Inspection") -> None:
        """Take up what was found in another shard."""
        self.keys += other.keys
        self.files += other.files
        self.conditions += other.conditions
        self.decoded += other.decoded
        self.shards += other.shards
        self.plain |= other.plain
        for problem, (count, first) in other.problems.items():
            self.complain(problem, first, count)
        self.captions = _range(self.captions, other.captions)
        self.sides = _range(self.sides, other.sides)

    def watch(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Count files as they pass."""
        for entry in entries:
            self.files[entry.suffix if entry.key is not None and entry.suffix in LIMITS else "other"] += 1
            yield entry


def _range(*values: Iterable[int] | None) -> tuple[int, int] | None:
    """The least and the greatest of them; None if there are none."""
    known = [number for some in values if some is not None for number in some]
    return (min(known), max(known)) if known else None


def _problems_of(sample: Sample, classes: int) -> Iterator[str]:
    """What is wrong with a sample before its image is decoded; `classes` as in inspect_shard."""
    if sample.fault is not None:
        yield sample.fault
    yield from sample.flaws
    if any(not caption.strip() for caption in sample.captions):
        yield "an empty caption"
    if sample.label is not None and classes and sample.label >= classes:
        yield f"a class beyond the manifest's {classes}"


def inspect_shard(
    folder: Location, shard: ShardInfo | str, classes: int, share: float, seed: int, max_pixels: int
) -> Inspection:
    """Read one shard to its end, and decode a share of its images, drawn by key.

    shard: as its manifest describes it, or the name of one that has none. classes: how many the manifest names; 0 if
    it names none. What is wrong is returned, never raised.
    """
    found = Inspection()
    name = shard if isinstance(shard, str) else shard.name
    location = folder / name
    try:
        with location.on_disk() as (stream, digest):
            for sample in map(as_sample, group_entries(found.watch(read_entries(stream)))):
                where = f"{name} {sample.key}"
                found.keys.append(sample.key)
                for problem in _problems_of(sample, classes):
                    found.complain(problem, where)
                if sample.fault is not None:
                    continue
                found.conditions[sample.caption is not None, sample.label] += 1
                found.captions = _range(found.captions, [len(sample.captions)])
                wanted = keyed_generator(seed, where, "validate").random() < share
                seen = (_decode if wanted else _size)(found, where, sample.image, max_pixels)
                key = sample_id(stem_of(name), sample.key)
                found.plain[key] = plain_features(sample.image, sample.captions, sample.label, *seen)
            size = stream.seek(0, io.SEEK_END)
    except (OSError, tarfile.TarError) as error:
        found.complain(f"cannot be read: {one_line(error)}", location.uri)
        return found
    actual = ShardInfo(name=name, samples=len(found.keys), bytes=size, sha256=digest)
    if actual.samples:
        found.shards = [actual]
    else:
        found.complain("holds no samples", location.uri)
    if isinstance(shard, ShardInfo):
        _compare(found, location, actual, shard)
    return found


def _compare(found: Inspection, location: Location, actual: ShardInfo, expected: ShardInfo) -> None:
    if actual.samples != expected.samples:
        found.complain(f"holds {actual.samples} samples, its manifest says {expected.samples}", location.uri)
    if (actual.bytes, actual.sha256) != (expected.bytes, expected.sha256):
        found.complain("is not the file that its manifest describes: bytes or checksum differ", location.uri)


# Width and height, and the pixels of an image that is decoded.
Seen = tuple[tuple[int, int] | None, UInt8[np.ndarray, "3 H W"] | None]


def _decode(found: Inspection, where: str, data: bytes, max_pixels: int) -> Seen:
    found.decoded += 1
    try:
        image = open_image(data, max_pixels)
        found.sides = _range(found.sides, image.size)
        return image.size, preprocess(image, ImageConfig(max_pixels=max_pixels), LOOKED_AT)
    except BadImage as error:
        found.complain(f"an image that {error}", where)
        return None, None


def _size(found: Inspection, where: str, data: bytes, max_pixels: int) -> Seen:
    """By the header, which may be all that is sound: only images that are decoded are found to be broken."""
    with suppress(BadImage):
        return size_of(data, max_pixels), None
    return None, None
