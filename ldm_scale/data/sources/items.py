"""What every source gives: images that are not read yet, with what is known about them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from ldm_scale.data.samples import IMAGE_SUFFIXES
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location


class Stored(Protocol):
    """An encoded image somewhere: a file's location, or a place inside a larger file. `str()` names it in errors."""

    @property
    def name(self) -> str:
        """A file name; its suffix says how the image is encoded."""

    def size(self) -> int:
        """About how many bytes it has, without reading it: shards are cut by these."""

    def read_bytes(self) -> bytes:
        """The encoded image; empty if the source has none."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source, not yet read.

    label: the name of its class, to be numbered among all names, or the number itself.
    variant: items of one variant show the same picture (skin tones, say).
    """

    key: str
    location: Stored
    caption: str | None = None
    label: str | int | None = None
    variant: str | None = None
    metadata: dict[str, Any] | None = None


def key_of(relative: str) -> str:
    """The key of a file: its path without suffix and without dots, as WebDataset ends a key at the first of them."""
    return relative.rsplit(".", 1)[0].replace(".", "_")


def is_image(name: str) -> bool:
    """Whether a file's suffix is one of an image."""
    return name.lower().endswith(tuple("." + suffix for suffix in IMAGE_SUFFIXES))


def check_present(names: Iterable[str], present: Iterable[str], listing: Location, folder: Location) -> None:
    """Raise UsageError for the first of `names` in `listing` that is not among the files of `folder`."""
    known = set(present)
    if absent := next((name for name in names if name not in known), None):
        raise UsageError(f"{listing} names {absent!r}, which is not in {folder}")
