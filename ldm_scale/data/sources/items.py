"""What every source gives: images that are not read yet, with what is known about them, and what else lies there."""

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location, sub_locations

UNLISTED = "not in the listing"
UNUSED = "of no use to this kind of source"
# What systems and programs leave in folders, by the names of files or of folders above them.
LEFTOVERS = {
    "__MACOSX": "macOS's own file",
    ".DS_Store": "macOS's own file",
    ".ipynb_checkpoints": "Jupyter's copy",
    "Thumbs.db": "Windows' own file",
    "desktop.ini": "Windows' own file",
}


class Stored(Protocol):
    """An encoded image somewhere: a file's location, or a place inside a larger file. `str()` names it in errors."""

    @property
    def name(self) -> str:
        """A file name; its suffix is kept if it is one of shards, and tells nothing: bytes do."""

    def size(self) -> int:
        """About how many bytes it has, without reading it: shards are cut by these."""

    def read_bytes(self) -> bytes:
        """The encoded image; empty if the source has none."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source, not yet read.

    captions: all of them, in the source's order. label: the name of its class, or its number. variant: items of one
    variant show the same picture (skin tones, say). fault: why it is rejected, if the source knows.
    """

    key: str
    location: Stored
    captions: tuple[str, ...] = ()
    label: str | int | None = None
    variant: str | None = None
    metadata: dict[str, Any] | None = None
    fault: str | None = None


def shown(name: str) -> str:
    r"""A name with the bytes that are not UTF-8 as \xff."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def leftover_rule(path: str) -> str | None:
    """The rule by which a file is skipped in every source, by its name or by a folder above it."""
    parts = [part for part in path.split("/") if part not in (".", "..")]
    if rule := next((LEFTOVERS[part] for part in parts if part in LEFTOVERS), None):
        return rule
    if parts[-1].startswith("._"):
        return "macOS's own file"
    return "hidden file" if any(part.startswith(".") for part in parts) else None


@dataclass
class Listing:
    """What a source holds: all that is seen there is an image, is read for what it says or holds, or is skipped.

    A file that holds many images is read; what is in it is seen as well.

    items: the images, in the source's order. classes: the name of each class number, if the source has such a table.
    seen: files, and images and entries inside of files. read: those that are no image but say something of images or
    hold them. skipped: how many by each rule, and the first. left: what is none of these yet, by its path. doubt: why
    the order of the items is not known, if it is not, so that no number can name one.
    """

    items: list[Item] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    seen: int = 0
    read: int = 0
    skipped: dict[str, tuple[int, str]] = field(default_factory=dict)
    left: dict[str, Stored] = field(default_factory=dict)
    doubt: str = ""

    def see(self, path: str, stored: Stored) -> None:
        """One more file: it is left to be looked at, unless a system or a program has left it there."""
        self.seen += 1
        if rule := leftover_rule(path):
            self._count(rule, path)
        elif path in self.left:
            raise UsageError(f"{stored} is there twice; remove one")
        elif shown(path) != path:
            raise UsageError(f"{shown(path)}: a file name that is not UTF-8; rename it (convmv -f latin1 -t utf8, say)")
        else:
            self.left[path] = stored

    def take(self, path: str) -> Stored:
        """A file that is an image; its item is the caller's to add."""
        return self.left.pop(path)

    def use(self, path: str) -> Stored:
        """A file that is read for what it says of images or holds."""
        self.read += 1
        return self.left.pop(path)

    def skip(self, rule: str, path: str) -> None:
        """A file that is neither, by the rule that says so."""
        del self.left[path]
        self._count(rule, path)

    def pass_over(self, rule: str, path: str) -> None:
        """What a listing finds that is neither a file nor a folder, by the rule that says so."""
        self.seen += 1
        self._count(rule, path)

    def _count(self, rule: str, path: str) -> None:
        count, first = self.skipped.get(rule, (0, shown(path)))
        self.skipped[rule] = (count + 1, first)

    def skip_rest(self, rule: str) -> None:
        """Skip all that is left."""
        for path in list(self.left):
            self.skip(rule, path)


def list_files(folder: Location) -> Listing:
    """Every file below a folder; links that lead nowhere, pipes and the like are skipped."""
    listing = Listing()
    for path, location in sub_locations(folder, "", listing.pass_over):
        listing.see(path, location)
    return listing


def composed(name: str) -> str:
    """A name in the Unicode form that most systems write (NFC); macOS's archives hold the other one."""
    return unicodedata.normalize("NFC", name)


def key_of(relative: str) -> str:
    """The key of a file: its path without suffix and without dots, as WebDataset ends a key at the first of them."""
    return composed(relative.rsplit(".", 1)[0].replace(".", "_"))


def check_present(names: Iterable[str], present: Mapping[str, object], origin: object, folder: Location) -> None:
    """Raise UsageError for the first of `names` in the list `origin` that is not among the files of `folder`."""
    if absent := next((name for name in names if name not in present), None):
        raise UsageError(f"{origin} names {absent!r}, which is not in {folder}")


def find_by_name(names: Iterable[str], files: Mapping[str, Stored], origin: object, folder: Location) -> dict[str, str]:
    """The path of each of `names` in the list `origin` among `files`, whichever folder it lies in.

    Raises:
        UsageError: One is not there, or in two folders with different sizes: which one is meant, nothing tells.
    """
    found: dict[str, list[str]] = {}
    for path in files:
        found.setdefault(composed(path.rsplit("/", 1)[-1]), []).append(path)
    check_present(names, found, origin, folder)
    for first, *others in map(found.__getitem__, names):
        if other := next((path for path in others if files[path].size() != files[first].size()), None):
            raise UsageError(f"{files[first]} and {files[other]} have one name and are not one file; remove one")
    return {name: found[name][0] for name in names}
