"""What a shard really holds, against its manifest: every byte read once, a draw of its images decoded."""

import io
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from webdataset.tariterators import base_plus_ext, tar_file_iterator

from ldm_scale.data.images import BadImage, open_image
from ldm_scale.data.manifest import ShardInfo
from ldm_scale.data.shards import IMAGE_SUFFIXES, as_label
from ldm_scale.errors import one_line
from ldm_scale.randomness import keyed_generator
from ldm_scale.storage import Location


@dataclass
class Inspection:
    """What was found in one shard or in several.

    files: files by suffix. conditions: samples by whether they have a caption, and by class index. sides: shortest and
    longest side of the decoded images. problems: what is wrong, with how many samples and the first of them. shards:
    what a manifest says of the shards that could be read and hold samples.
    """

    keys: list[str] = field(default_factory=list)
    files: Counter[str] = field(default_factory=Counter)
    conditions: Counter[tuple[bool, int | None]] = field(default_factory=Counter)
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
        if other.sides is not None:
            self.see(*other.sides)

    def see(self, *sides: int) -> None:
        """Take up the sides of an image."""
        known = (*(self.sides or ()), *sides)
        self.sides = (min(known), max(known))


def _samples(files: Iterable[dict[str, object]]) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Adjacent files of one key, as (suffix, bytes)."""
    current: str | None = None
    parts: list[tuple[str, bytes]] = []
    for file in files:
        key, suffix = base_plus_ext(file["fname"])
        if key is None:
            continue
        if key != current:
            if current is not None:
                yield current, parts
            current, parts = key, []
        parts.append((suffix.lower(), bytes(file["data"])))  # type: ignore[call-overload]
    if current is not None:
        yield current, parts


def _label(data: bytes | None, classes: int) -> tuple[int | None, str | None]:
    """The class index, and what is wrong with it."""
    if data is None:
        return None, None
    number = as_label(data)
    if number is None:
        return None, "a class that is no number"
    beyond = classes and number >= classes
    return number, f"a class beyond the manifest's {classes}" if beyond else None


def _problems_of(parts: dict[str, bytes], count: int) -> Iterator[str]:
    if len(parts) < count:
        yield "two files of one suffix"
    images = [suffix for suffix in IMAGE_SUFFIXES if suffix in parts]
    if not images:
        yield "no image"
    elif len(images) > 1:
        yield "more than one image"
    try:
        caption = parts.get("txt", b"-").decode()
    except UnicodeDecodeError:
        yield "a caption that is not UTF-8"
    else:
        if not caption.strip():
            yield "an empty caption"


def inspect_shard(
    folder: Location, shard: ShardInfo | str, classes: int, share: float, seed: int, max_pixels: int
) -> Inspection:
    """Read one shard to its end, and decode a share of its images, drawn by key.

    shard: as its manifest describes it, or the name of one that has none. classes: how many the manifest names; 0 where
    it names none. What is wrong is returned, never raised.
    """
    found = Inspection()
    name = shard if isinstance(shard, str) else shard.name
    location = folder / name
    seen: set[str] = set()
    try:
        with location.on_disk() as (stream, digest):
            files = ({**file, "__url__": location.uri} for file in tar_file_iterator(stream, skip_meta=None))
            for key, listed in _samples(files):
                parts = dict(listed)
                where = f"{name} {key}"
                if key in seen:
                    found.complain("files that are not beside each other, or a key twice", where)
                    continue
                seen.add(key)
                _inspect_sample(found, where, parts, len(listed), classes)
                if keyed_generator(seed, where, "validate").random() < share:
                    _decode(found, where, parts, max_pixels)
            size = stream.seek(0, io.SEEK_END)
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        found.complain(f"cannot be read: {one_line(error)}", location.uri)
        return found
    found.keys = sorted(seen)
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


def _inspect_sample(found: Inspection, where: str, parts: dict[str, bytes], count: int, classes: int) -> None:
    found.files.update(list(parts))
    label, complaint = _label(parts.get("cls"), classes)
    found.conditions["txt" in parts, label] += 1
    for problem in (*_problems_of(parts, count), *([complaint] if complaint else [])):
        found.complain(problem, where)


def _decode(found: Inspection, where: str, parts: dict[str, bytes], max_pixels: int) -> None:
    data = next((parts[suffix] for suffix in IMAGE_SUFFIXES if suffix in parts), None)
    if data is None:
        return
    found.decoded += 1
    try:
        found.see(*open_image(data, max_pixels).size)
    except BadImage as error:
        found.complain(f"an image that {error}", where)
