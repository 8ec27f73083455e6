"""An image folder."""

import csv
import io

from ldm_scale.data.sources.items import Item, check_present, is_image, key_of
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location, sub_locations


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
        if not is_image(relative):
            continue
        row = metadata.get(relative, {})
        beside = files.get(relative.rsplit(".", 1)[0] + ".txt")
        caption = row.get("caption") or (beside.read_text().strip() if beside else None)
        label = row.get("label") or (relative.split("/")[0] if "/" in relative else None)
        items.append(Item(key_of(relative), location, caption, label))
    check_present(metadata, files, folder / "metadata.csv", folder)
    return items
