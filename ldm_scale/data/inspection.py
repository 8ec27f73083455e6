"""What a shard really holds, against its manifest: every byte read once, a draw of its images decoded."""

import io
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ldm_scale.data.images import BadImage, open_image
from ldm_scale.data.manifest import ShardInfo
from ldm_scale.data.samples import LIMITS, Entry, Sample, as_sample, group_entries, read_entries
from ldm_scale.errors import one_line
from ldm_scale.files.storage import Location
from ldm_scale.randomness import keyed_generator


@dataclass
class Inspection:
    """What was found in one shard or in several.

    files: files by suffix, and "other" ones that are not read. conditions: samples that are not rejected as they are
    read, by whether they have a caption and by class index. captions: the fewest and the most of one sample. sides:
    shortest and longest side of the decoded images.
    problems: what is wrong, with how many samples and the first of them. shards: what a manifest says of the shards
    that could be read and hold samples.
    """

    keys: list[str] = field(default_factory=list)
    files: Counter[str] = field(default_factory=Counter)
    conditions: Counter[tuple[bool, int | None]] = field(default_factory=Counter)
    captions: tuple[int, int] | None = None
    sides: tuple[int, int] | None = None
    decoded: int = 0
    problems: dict[str, tuple[int, str]] = field(default_factory=dict)
    shards: list[ShardInfo] = field(default_factory=list)

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
                if keyed_generator(seed, where, "validate").random() < share:
                    _decode(found, where, sample.image, max_pixels)
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


def _decode(found: Inspection, where: str, data: bytes, max_pixels: int) -> None:
    found.decoded += 1
    try:
        found.sides = _range(found.sides, open_image(data, max_pixels).size)
    except BadImage as error:
        found.complain(f"an image that {error}", where)
