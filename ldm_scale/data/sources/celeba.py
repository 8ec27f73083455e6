"""CelebA, aligned and cropped: `img_align_celeba/` with the original or Kaggle's lists of partitions and attributes.

Keys are `train-000001` and so on: partition (train, valid, test) and file. Items come in the order of the list. The
forty attributes (1 or -1), if their list is there, are the items' metadata.
"""

from collections import Counter
from typing import Any

from ldm_scale.data.sources.items import UNLISTED, Item, Listing, Stored, composed, find_by_name, key_of, list_files
from ldm_scale.data.sources.text import read_text
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location

IMAGES = "img_align_celeba"
# Beside the images, in a folder as in the original download, or as Kaggle has them.
PARTITION_LISTS = ("list_eval_partition.txt", "Eval/list_eval_partition.txt", "list_eval_partition.csv")
ATTRIBUTE_LISTS = ("list_attr_celeba.txt", "Anno/list_attr_celeba.txt", "list_attr_celeba.csv")
HEADER = ["image_id", "partition"]
VALUES = {"1", "-1"}
PARTITIONS = {"0": "train", "1": "valid", "2": "test"}


def _find(listing: Listing, *names: str) -> Stored | None:
    return next((listing.use(name) for name in names if name in listing.left), None)


def _read_rows(file: Stored) -> list[list[str]]:
    """The words of each line of a list, which Kaggle has as CSV."""
    separator = "," if file.name.endswith(".csv") else None
    return [line.split(separator) for line in composed(read_text(file)).splitlines() if line.strip()]


def _read_partitions(file: Stored) -> dict[str, str]:
    rows = [row for row in _read_rows(file) if row != HEADER]
    if bad := next((row for row in rows if len(row) != 2 or row[1] not in PARTITIONS), None):
        raise UsageError(f"{file} has a line {' '.join(bad)!r}; each is a file name and 0, 1 or 2")
    if twice := next((name for name, count in Counter(name for name, _ in rows).items() if count > 1), None):
        raise UsageError(f"{file} lists {twice!r} twice")
    return {name: PARTITIONS[number] for name, number in rows}


def _read_attributes(file: Stored) -> dict[str, dict[str, Any]]:
    """File name to its attributes; the original list begins with a count and a header without the file's column."""
    rows = _read_rows(file)
    header = rows[:1] if file.name.endswith(".csv") else [["image_id", *row] for row in rows[1:2]]
    body = rows[1:] if file.name.endswith(".csv") else rows[2:]
    if not header or not body:
        raise UsageError(f"{file} is no list of CelebA's attributes")
    names = header[0][1:]
    if bad := next((row for row in body if len(row) != 1 + len(names) or not VALUES.issuperset(row[1:])), None):
        raise UsageError(f"{file} has a line {' '.join(bad)[:60]!r}; each is a file name and {len(names)} of 1 and -1")
    return {row[0]: dict(zip(names, map(int, row[1:]), strict=True)) for row in body}


def read_celeba(folder: Location) -> Listing:
    """Every image of the list; the images may lie one folder deeper, as Kaggle's archive has them."""
    listing = list_files(folder)
    partition_list = _find(listing, *PARTITION_LISTS)
    if partition_list is None:
        raise UsageError(f"{folder / 'list_eval_partition.txt'} (or .csv) does not exist; it comes with CelebA")
    attributes = _find(listing, *ATTRIBUTE_LISTS)
    known = {} if attributes is None else _read_attributes(attributes)
    images = {path: file for path, file in listing.left.items() if path.startswith(f"{IMAGES}/")}
    partitions = _read_partitions(partition_list)
    paths = find_by_name(partitions, images, partition_list, folder / IMAGES)
    listing.items = [
        Item(f"{side}-{key_of(name)}", listing.take(paths[name]), metadata=known.get(name))
        for name, side in partitions.items()
    ]
    listing.skip_rest(UNLISTED)
    return listing
