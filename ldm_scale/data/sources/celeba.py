"""CelebA, aligned and cropped: `img_align_celeba/` with the original or Kaggle's list of partitions.

Keys are `train-000001` and so on: partition (train, valid, test) and file. Items come in the order of the list.
"""

from ldm_scale.data.sources.items import Item, check_present, key_of
from ldm_scale.errors import UsageError
from ldm_scale.storage import Location, sub_locations

IMAGES = "img_align_celeba"
HEADER = "image_id,partition"
PARTITIONS = {"0": "train", "1": "valid", "2": "test"}


def _partition_list(files: dict[str, Location], folder: Location) -> Location:
    """The list of partitions: beside the images, or in Eval/ as in the original download."""
    for name in ("list_eval_partition.txt", "Eval/list_eval_partition.txt", "list_eval_partition.csv"):
        if name in files:
            return files[name]
    raise UsageError(f"{folder / 'list_eval_partition.txt'} (or .csv) does not exist; it comes with CelebA")


def _read_partitions(listing: Location) -> dict[str, str]:
    lines = listing.read_bytes().decode(errors="replace").splitlines()
    separator = "," if listing.name.endswith(".csv") else None
    rows = [line.split(separator) for line in lines if line.strip() and line != HEADER]
    if bad := next((row for row in rows if len(row) != 2 or row[1] not in PARTITIONS), None):
        raise UsageError(f"{listing} has a line {' '.join(bad)!r}; each is a file name and 0, 1 or 2")
    return {name: PARTITIONS[number] for name, number in rows}


def read_celeba(folder: Location) -> list[Item]:
    """Every image of the list; the images may lie one folder deeper, as Kaggle's archive has them."""
    files = dict(sub_locations(folder, ""))
    listing = _partition_list(files, folder)
    images = {location.name: location for path, location in files.items() if path.startswith(f"{IMAGES}/")}
    partitions = _read_partitions(listing)
    check_present(partitions, images, listing, folder / IMAGES)
    return [Item(f"{side}-{key_of(name)}", images[name]) for name, side in partitions.items()]
