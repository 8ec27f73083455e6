"""Where samples come from before they are packed: one reader for each kind of source."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ldm_scale.data.shards import IMAGE_SUFFIXES
from ldm_scale.errors import UsageError
from ldm_scale.storage import Location, sub_locations


@dataclass(frozen=True)
class Item:
    """One image of a source, not yet read. Items of one `variant` show the same picture (skin tones, say)."""

    key: str
    location: Location
    caption: str | None = None
    label: str | None = None
    variant: str | None = None


def _key(relative: str) -> str:
    # WebDataset ends a key at the first dot of the base name.
    return relative.rsplit(".", 1)[0].replace(".", "_")


def _metadata(folder: Location) -> dict[str, dict[str, str]]:
    path = folder / "metadata.csv"
    if not path.is_file():
        return {}
    rows = list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"))))
    if rows and "file_name" not in rows[0]:
        raise UsageError(f"{path} needs a column file_name (and optionally caption, label)")
    return {row["file_name"]: row for row in rows}


def read_folder(folder: Location) -> list[Item]:
    """An image folder.

    Captions come from `metadata.csv` (columns file_name, caption, label) or from a .txt file beside the image; labels
    from `metadata.csv` or else from the first level of sub-folders.
    """
    files = dict(sub_locations(folder, ""))
    metadata = _metadata(folder)
    items = []
    for relative, location in files.items():
        if not relative.lower().endswith(tuple("." + suffix for suffix in IMAGE_SUFFIXES)):
            continue
        row = metadata.get(relative, {})
        beside = files.get(relative.rsplit(".", 1)[0] + ".txt")
        caption = row.get("caption") or (beside.read_text().strip() if beside else None)
        label = row.get("label") or (relative.split("/")[0] if "/" in relative else None)
        items.append(Item(_key(relative), location, caption, label))
    if absent := next((name for name in metadata if name not in files), None):
        raise UsageError(f"{folder / 'metadata.csv'} names {absent!r}, which is not in the folder")
    return items


# Code points that make variants of one picture: skin tones, hair, gender and direction signs, joiners.
_VARIANT_POINTS = {"FE0F", "200D", "2640", "2642", "27A1", "2194", "2195"}
_VARIANT_POINTS |= {f"1F3F{tone}" for tone in "BCDEF"} | {f"1F9B{hair}" for hair in "0123"}
# Woman, boy, girl, adult and child stand for a man: the same scene with other people.
_PEOPLE = {"1F469", "1F466", "1F467", "1F9D1", "1F9D2"}


def _emoji_variant(unified: str) -> str:
    points = [point for point in unified.split("-") if point not in _VARIANT_POINTS]
    people = ["1F468" if point in _PEOPLE else point for point in points]
    return "-".join(sorted(people))


def read_emoji(folder: Location) -> list[Item]:
    """The unpacked npm package `emoji-datasource-google`: Noto emoji with their names and sub-categories."""
    listing = folder / "emoji.json"
    if not listing.is_file():
        raise UsageError(f"{listing} does not exist; SOURCE must be the unpacked package emoji-datasource-google")
    try:
        entries = [entry for entry in json.loads(listing.read_text()) if entry["has_img_google"]]
        items = [_emoji_item(folder, entry) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{listing} is not the emoji list of the package emoji-datasource-google") from None
    if absent := next((item.location for item in items if not item.location.is_file()), None):
        raise UsageError(f"{absent} is named in emoji.json and is not in the package")
    return items


def _emoji_item(folder: Location, entry: dict[str, Any]) -> Item:
    return Item(
        key=entry["image"].removesuffix(".png"),
        location=folder / "img/google/64" / entry["image"],
        caption=(entry["name"] or entry["short_name"].replace("_", " ")).lower(),
        label=entry["subcategory"],
        variant=_emoji_variant(entry["unified"]),
    )


SOURCES: dict[str, Callable[[Location], list[Item]]] = {"folder": read_folder, "emoji": read_emoji}
