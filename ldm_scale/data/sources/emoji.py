"""The npm package `emoji-datasource-google`."""

import json
from typing import Any

from ldm_scale.data.sources.items import UNLISTED, Item, Listing, Stored, check_present, list_files
from ldm_scale.data.sources.text import read_text
from ldm_scale.errors import UsageError, shaped
from ldm_scale.files.storage import Location

IMAGES = "img/google/64"
LIST = "emoji.json"
# Code points that make variants of one picture: skin tones, hair, gender and direction signs, joiners.
_VARIANT_POINTS = {"FE0F", "200D", "2640", "2642", "27A1", "2194", "2195"}
_VARIANT_POINTS |= {f"1F3F{tone}" for tone in "BCDEF"} | {f"1F9B{hair}" for hair in "0123"}
# Woman, boy, girl, adult and child stand for a man: the same scene with other people.
_PEOPLE = {"1F469", "1F466", "1F467", "1F9D1", "1F9D2"}


def read_emoji(folder: Location) -> Listing:
    """The unpacked npm package `emoji-datasource-google`: Noto emoji with their names and sub-categories."""
    listing = list_files(folder)
    file = folder / LIST
    if LIST not in listing.left:
        raise UsageError(f"{file} does not exist; SOURCE must be the unpacked package emoji-datasource-google")
    with shaped(f"{file} is not the emoji list of the package emoji-datasource-google"):
        listed = json.loads(read_text(listing.use(LIST)))
        entries = {f"{IMAGES}/{entry['image']}": entry for entry in listed if entry["has_img_google"]}
        check_present(entries, listing.left, file, folder)
        listing.items = [_item(listing.take(path), entry) for path, entry in entries.items()]
    listing.skip_rest(UNLISTED)
    return listing


def _item(image: Stored, entry: dict[str, Any]) -> Item:
    points = (point for point in entry["unified"].split("-") if point not in _VARIANT_POINTS)
    return Item(
        key=image.name.removesuffix(".png"),
        location=image,
        captions=((entry["name"] or entry["short_name"].replace("_", " ")).lower(),),
        label=entry["subcategory"],
        variant="-".join(sorted("1F468" if point in _PEOPLE else point for point in points)),
    )
