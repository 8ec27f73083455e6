"""An image folder."""

import csv
import io

from ldm_scale.data.samples import IMAGE_SUFFIXES
from ldm_scale.data.sources.items import UNUSED, Item, Listing, check_present, key_of, list_files
from ldm_scale.data.sources.text import read_text
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location

METADATA = "metadata.csv"


def _metadata(listing: Listing) -> dict[str, dict[str, str]]:
    if METADATA not in listing.left:
        return {}
    path = listing.use(METADATA)
    rows = list(csv.DictReader(io.StringIO(read_text(path))))
    if rows and "file_name" not in rows[0]:
        raise UsageError(f"{path} needs a column file_name (and optionally caption, label)")
    return {row["file_name"]: row for row in rows}


def read_folder(folder: Location) -> Listing:
    """An image folder.

    Captions come from `metadata.csv` (columns file_name, caption, label) or from a .txt file beside the image; labels
    from `metadata.csv` or else from the first level of sub-folders.
    """
    listing = list_files(folder)
    metadata = _metadata(listing)
    check_present(metadata, listing.left, folder / METADATA, folder)
    for relative in [path for path in listing.left if path.lower().endswith(tuple(f".{s}" for s in IMAGE_SUFFIXES))]:
        row = metadata.get(relative, {})
        beside = relative.rsplit(".", 1)[0] + ".txt"
        text = read_text(listing.use(beside)).strip() if beside in listing.left else ""
        caption = row.get("caption") or text
        label = row.get("label") or (relative.split("/")[0] if "/" in relative else None)
        listing.items.append(Item(key_of(relative), listing.take(relative), (caption,) if caption else (), label))
    listing.skip_rest(UNUSED)
    return listing
