"""CelebA, aligned and cropped: `img_align_celeba/` with the original or Kaggle's lists of partitions and attributes.

Keys are `train-000001` and so on: partition (train, valid, test) and file. Items come in the order of the list. The
forty attributes (1 or -1), if their list is there, are the items' metadata.
"""

from typing import Any

from ldm_scale.data.sources.items import Item, check_present, key_of
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location, sub_locations

IMAGES = "img_align_celeba"
# Beside the images, in a folder as in the original download, or as Kaggle has them.
PARTITION_LISTS = ("list_eval_partition.txt", "Eval/list_eval_partition.txt", "list_eval_partition.csv")
ATTRIBUTE_LISTS = ("list_attr_celeba.txt", "Anno/list_attr_celeba.txt", "list_attr_celeba.csv")
HEADER = ["image_id", "partition"]
VALUES = {"1", "-1"}
PARTITIONS = {"0": "train", "1": "valid", "2": "test"}


def _find(files: dict[str, Location], *names: str) -> Location | None:
    return next((files[name] for name in names if name in files), None)


def _read_rows(listing: Location) -> list[list[str]]:
    """The words of each line of a list, which Kaggle has as CSV."""
    separator = "," if listing.name.endswith(".csv") else None
    lines = listing.read_bytes().decode(errors="replace").splitlines()
    return [line.split(separator) for line in lines if line.strip()]


def _read_partitions(listing: Location) -> dict[str, str]:
    rows = [row for row in _read_rows(listing) if row != HEADER]
    if bad := next((row for row in rows if len(row) != 2 or row[1] not in PARTITIONS), None):
        raise UsageError(f"{listing} has a line {' '.join(bad)!r}; each is a file name and 0, 1 or 2")
    return {name: PARTITIONS[number] for name, number in rows}


def _read_attributes(listing: Location) -> dict[str, dict[str, Any]]:
    """File name to its attributes; the original list begins with a count and a header without the file's column."""
    rows = _read_rows(listing)
    header = rows[:1] if listing.name.endswith(".csv") else [["image_id", *row] for row in rows[1:2]]
    body = rows[1:] if listing.name.endswith(".csv") else rows[2:]
    if not header or not body:
        raise UsageError(f"{listing} is no list of CelebA's attributes")
    names = header[0][1:]
    if bad := next((row for row in body if len(row) != 1 + len(names) or not VALUES.issuperset(row[1:])), None):
        raise UsageError(
            f"{listing} has a line {' '.join(bad)[:60]!r}; each is a file name and {len(names)} of 1 and -1"
        )
    return {row[0]: dict(zip(names, map(int, row[1:]), strict=True)) for row in body}


def read_celeba(folder: Location) -> list[Item]:
    """Every image of the list; the images may lie one folder deeper, as Kaggle's archive has them."""
    files = dict(sub_locations(folder, ""))
    listing = _find(files, *PARTITION_LISTS)
    if listing is None:
        raise UsageError(f"{folder / 'list_eval_partition.txt'} (or .csv) does not exist; it comes with CelebA")
    attributes = _find(files, *ATTRIBUTE_LISTS)
    known = {} if attributes is None else _read_attributes(attributes)
    images = {location.name: location for path, location in files.items() if path.startswith(f"{IMAGES}/")}
    partitions = _read_partitions(listing)
    check_present(partitions, images, listing, folder / IMAGES)
    return [Item(f"{side}-{key_of(name)}", images[name], metadata=known.get(name)) for name, side in partitions.items()]
