"""What a sample is, and the one parser of a shard's bytes: a tar stream to samples, in constant memory.

Names are split as WebDataset splits them, at the first dot of their last part: what comes before is the key, what comes
after the suffix, and adjacent files of one key are one sample. A name without key or suffix (README, .hidden.jpg)
belongs to no sample, nor does what macOS puts beside a file (._a.jpg). WebDataset's own iterators would pass over links
and devices, stop at a repeated file, take a damaged header for the end, and read every file whole, whatever its size
and suffix.

Nothing is ever extracted, so that a name is only a name, with `../` or `/` at its beginning, too; only files of known
suffixes are read; and what is wrong with a sample is kept with it, so that it is rejected by name and counted.
"""

import hashlib
import itertools
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from ldm_scale.data.tar import read_file, walk_tar

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
# The most bytes of a file that are read, by its suffix; others are not read at all. A tokenizer reads a whole caption
# before it cuts it: CLIP's takes 0.2 s for 64 KiB and 4 s for 1 MB.
LIMITS = {**dict.fromkeys(IMAGE_SUFFIXES, 128 << 20), "txt": 64 << 10, "cls": 64, "json": 1 << 20}
TOO_LONG = f"a caption of more than {LIMITS['txt']} bytes"
TOO_MUCH = f"captions and metadata of more than {LIMITS['json']} bytes"
MAX_KEY = 1000
# How the name of a file begins that macOS puts in front of another in a tar, with that one's attributes.
BESIDE = "._"
NO_IMAGE = "no image"
DOTTED = f"{NO_IMAGE}: a file's name has several dots, and its key ends at the first"
# The name of all captions in a sample's json, if there are several.
CAPTIONS = "captions"


@dataclass(frozen=True)
class Sample:
    """One image as stored: its key, encoded bytes and their suffix, and what is known about it.

    captions: all of them; a shard holds the first in `txt` and several in its json, too (see as_said). fault: why
    the sample is rejected as it is read; its image is then left out. flaws: why it has no caption or no label although
    its shard holds one, which only matters to a target that asks for it.
    """

    key: str
    image: bytes
    suffix: str
    captions: tuple[str, ...] = ()
    label: int | None = None
    metadata: dict[str, Any] | None = None
    fault: str | None = None
    flaws: tuple[str, ...] = ()

    @property
    def caption(self) -> str | None:
        """The first caption."""
        return next(iter(self.captions), None)


@dataclass(frozen=True)
class Entry:
    """One file of a tar, or what stands in place of one; key is None if it belongs to no sample.

    data: its bytes; None if they are not read, because of their number or of the suffix.
    """

    name: str
    key: str | None
    suffix: str
    data: bytes | None
    is_plain: bool


@dataclass(frozen=True)
class EntryGroup:
    """The files of one key by suffix, as Entry has them, and why the sample is rejected, if it is."""

    key: str
    files: dict[str, bytes | None]
    fault: str | None


@dataclass(frozen=True)
class Said:
    """What a sample's `txt` and `json` say; flaw: why its captions are not known, and are none, if that is so."""

    captions: tuple[str, ...]
    metadata: dict[str, Any] | None
    flaw: str | None = None


def split_name(name: str) -> tuple[str | None, str | None]:
    """Key and suffix as webdataset.tariterators.base_plus_ext splits a name, or twice None.

    Importing WebDataset imports torch, 200 MB that a reader has no use for; and its pattern,
    `^((?:.*/|)[^.]+)[.]([^/]*)$`, takes a time that grows with the square of a name of many slashes.
    """
    dot = name.find(".", name.rfind("/") + 1)
    # What stands in front of the dot and has none itself; it begins with the name or behind one of its slashes.
    start = name.rfind(".", 0, max(dot, 0)) + 1
    slash = name.find("/", start, max(dot - 1, 0))
    if dot > 0 and (start == 0 or (slash >= 0 and "\n" not in name[:slash])):
        return name[:dot], name[dot + 1 :]
    return None, None


def is_dotted(suffix: str) -> bool:
    """Whether a suffix ends as that of an image and is none, as of 22.05.png: to WebDataset, the file is no image."""
    return "." in suffix and suffix.rpartition(".")[2] in IMAGE_SUFFIXES


def _entry(archive: tarfile.TarFile, header: tarfile.TarInfo) -> Entry:
    is_beside = header.name.rpartition("/")[2].startswith(BESIDE)
    key, suffix = (None, None) if is_beside else split_name(header.name)
    suffix = (suffix or "").lower()
    is_plain = header.isreg() and not header.issparse()
    readable = is_plain and key is not None and header.size <= LIMITS.get(suffix, -1)
    return Entry(header.name, key, suffix, read_file(archive, header) if readable else None, is_plain)


def read_entries(stream: IO[bytes]) -> Iterator[Entry]:
    """Everything in a tar but its directories, in order; names and errors as of walk_tar."""
    for archive, header in walk_tar(stream):
        yield _entry(archive, header)


def _collect(entries: Iterable[Entry]) -> tuple[dict[str, bytes | None], str | None]:
    """The first file of each known suffix, and what is wrong with them together."""
    files: dict[str, bytes | None] = {}
    fault, dotted = None, False
    for entry in entries:
        dotted |= is_dotted(entry.suffix)
        if not entry.is_plain:
            fault = fault or "one of its files is a link, a device or a sparse file"
        elif entry.suffix in files:
            fault = fault or "two files of one suffix"
        if entry.suffix in LIMITS:
            # Of several images none is used, and two are more than need be held.
            another = entry.suffix in IMAGE_SUFFIXES and not files.keys().isdisjoint(IMAGE_SUFFIXES)
            files.setdefault(entry.suffix, None if another else entry.data)
    images = [suffix for suffix in files if suffix in IMAGE_SUFFIXES]
    if not images:
        fault = fault or (DOTTED if dotted else NO_IMAGE)
    elif len(images) > 1:
        fault = fault or "more than one image"
    elif files[images[0]] is None:
        fault = fault or f"an image file of more than {LIMITS[images[0]]} bytes"
    return files, fault


def group_entries(entries: Iterable[Entry]) -> Iterator[EntryGroup]:
    """Adjacent entries of one key, each under an id that no other of the shard has.

    A key that was there before is rejected as `<key>.again-2` and so on, one of more than MAX_KEY characters under its
    first ones and a digest: as no key has a dot in its last part, these are nobody's.
    """
    seen: Counter[str] = Counter()
    known = (entry for entry in entries if entry.key is not None)
    for key, grouped in itertools.groupby(known, lambda entry: str(entry.key)):
        files, fault = _collect(grouped)
        if len(key) > MAX_KEY:
            key = f"{key[:64]}...{hashlib.sha256(key.encode()).hexdigest()}"
            fault = f"a key of more than {MAX_KEY} characters"
        seen[key] += 1
        if seen[key] > 1:
            key, fault = f"{key}.again-{seen[key]}", "its key was there before"
        yield EntryGroup(key, files, fault)


def as_label(data: bytes | None) -> int | None:
    """The class index in some bytes, or None if they are no number of 64 bits."""
    digits = (data or b"").strip()
    return int(digits) if digits.isdigit() and len(digits) < 19 else None


def as_caption(data: bytes | None) -> str | None:
    """The caption in some bytes, or None if they are not UTF-8 or too many: another caption is another sample."""
    try:
        # A mark of UTF-8 is none of the caption.
        return None if data is None or len(data) > LIMITS["txt"] else data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def encode_metadata(captions: tuple[str, ...], metadata: dict[str, Any] | None) -> bytes | None:
    """The `json` of a sample: its metadata, and all captions if there are several; None if there is neither."""
    listed = {CAPTIONS: captions} if len(captions) > 1 else {}
    if metadata is None and not listed:
        return None
    return json.dumps({**(metadata or {}), **listed}, sort_keys=True).encode()


def as_said(caption: str | None, files: Mapping[str, bytes | None]) -> Said:
    """All captions of a sample and its metadata without them; `caption` is that of its `txt`.

    A list `captions` in the json whose first is the caption itself holds all of them. Another one is metadata: the
    caption would be none of them, or not the first. A json that cannot be read may hold such a list. NaN, which Python
    writes and JSON lacks, is null.
    """
    known = () if caption is None else (caption,)
    if "json" not in files:
        return Said(known, None)
    try:
        content = json.loads(files["json"] or b"", parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return Said((), None, f"its json is none, or of more than {LIMITS['json']} bytes")
    metadata = content if isinstance(content, dict) else None
    listed = (metadata or {}).get(CAPTIONS)
    listed = [_unmarked(text) for text in listed] if isinstance(listed, list) else []
    if not known or listed[:1] != [caption]:
        return Said(known, metadata)
    if not all(map(_is_caption, listed)):
        return Said((), metadata, "its json lists a caption that is no text, or too long")
    return Said(tuple(listed), {name: value for name, value in content.items() if name != CAPTIONS} or None)


def _unmarked(text: object) -> object:
    """A caption without the mark of UTF-8, which `txt` loses as well."""
    return text.removeprefix("\ufeff") if isinstance(text, str) else text


def _is_caption(value: object) -> bool:
    """Whether it could be in a `txt`: JSON also spells strings that no UTF-8 does."""
    return isinstance(value, str) and as_caption(value.encode(errors="surrogatepass")) is not None


def as_sample(group: EntryGroup) -> Sample:
    """What the files of a group say."""
    files = group.files
    suffix = next((name for name in IMAGE_SUFFIXES if name in files), "")
    image = files.get(suffix) if group.fault is None else None
    caption, label = as_caption(files.get("txt")), as_label(files.get("cls"))
    said = as_said(caption, files)
    flaws = [said.flaw] if said.flaw else []
    if "txt" in files and caption is None:
        flaws.append(f"its caption is not UTF-8, or of more than {LIMITS['txt']} bytes")
    if "cls" in files and label is None:
        flaws.append("its class is no number")
    return Sample(group.key, image or b"", suffix, said.captions, label, said.metadata, group.fault, tuple(flaws))


def parse_samples(stream: IO[bytes]) -> Iterator[Sample]:
    """The samples of a tar stream, in order, rejected ones included; errors as of read_entries."""
    return map(as_sample, group_entries(read_entries(stream)))
