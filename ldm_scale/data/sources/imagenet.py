"""ImageNet-1K: class folders in `train/` and `val/`, or the official tars, read without unpacking; and ImageNetV2.

Keys are `train/n01440764/n01440764_10026`, `val/n01440764/ILSVRC2012_val_00000293` from class folders,
`val/ILSVRC2012_val_00000293` from the official validation set, and `imagenetv2-.../0/...`. Within each part items come
by key, as torchvision orders them; labels are WordNet ids.
"""

import io
import re
from collections.abc import Iterator

import scipy.io

from ldm_scale.data.classes import table_of
from ldm_scale.data.samples import IMAGE_SUFFIXES
from ldm_scale.data.sources.items import UNUSED, Item, Listing, Stored, key_of, list_files
from ldm_scale.data.sources.tars import tarred_files
from ldm_scale.data.sources.text import read_text
from ldm_scale.errors import UsageError, shaped
from ldm_scale.files.storage import Location

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
V2_PREFIX = "imagenetv2-"
DEVKIT = "ILSVRC2012_devkit_t12/data"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
META = "meta.mat"
_CLASS = re.compile(r"n\d{8}")
_VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")

# Name below a part such as train to path, by name.
Paths = dict[str, str]
SUFFIXES = tuple(f".{suffix}" for suffix in IMAGE_SUFFIXES)


def _images(listing: Listing, part: str) -> Paths:
    """The images in a folder or tar, by path there."""
    paths = sorted(path for path in listing.left if path.startswith(f"{part}/") and path.lower().endswith(SUFFIXES))
    return {path.removeprefix(f"{part}/"): path for path in paths}


def _in_tar(listing: Listing, folder: Location, name: str, nested: bool = False) -> Paths:
    """The images of an official tar, if it is there."""
    if name in listing.left:
        listing.use(name)
        for file in tarred_files(folder / name, nested):
            listing.see(f"{name}/{file.name}", file)
    return _images(listing, name)


def _in_classes(images: Paths) -> Paths:
    return {name: path for name, path in images.items() if "/" in name and _CLASS.fullmatch(name.split("/")[0])}


def _wnids_by_number(meta: Stored) -> dict[int, str]:
    """The devkit's meta.mat: ILSVRC2012_ID to WordNet id."""
    try:
        synsets = scipy.io.loadmat(io.BytesIO(meta.read_bytes()), squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    except Exception:  # broken files raise nearly anything
        raise UsageError(f"{meta} is not the list of synsets of ILSVRC2012_devkit_t12") from None


def _validation_labels(listing: Listing, devkit: Location) -> list[str]:
    """The WordNet ids of the validation images, in the order of their numbers."""
    for name in (TRUTH, META):
        if f"{DEVKIT}/{name}" not in listing.left:
            raise UsageError(
                f"{devkit / name} does not exist; the validation images need ILSVRC2012_devkit_t12, unpacked"
            )
    wnids = _wnids_by_number(listing.use(f"{DEVKIT}/{META}"))
    lines = read_text(listing.use(f"{DEVKIT}/{TRUTH}")).split()
    with shaped(f"{devkit / TRUTH} must hold a number of a synset of meta.mat a line"):
        return [wnids[int(line)] for line in lines]


def _by_class(listing: Listing, part: str, images: Paths) -> Iterator[Item]:
    for name, path in images.items():
        yield Item(f"{part}/{key_of(name)}", listing.take(path), label=name.split("/")[0])


def _read_val(listing: Listing, folder: Location) -> Iterator[Item]:
    """Class folders as most people arrange them, or the images as they are published, with the devkit's labels."""
    images = _images(listing, "val") or _in_tar(listing, folder, VAL_TAR)
    if classes := _in_classes(images):
        yield from _by_class(listing, "val", classes)
        return
    numbered = [(name, path, int(match[1])) for name, path in images.items() if (match := _VAL_NAME.fullmatch(name))]
    if not numbered:
        return
    labels = _validation_labels(listing, folder / DEVKIT)
    if beyond := next((name for name, _, number in numbered if not 1 <= number <= len(labels)), None):
        raise UsageError(f"{folder / DEVKIT / TRUTH} has {len(labels)} labels, none for {beyond}")
    for name, path, number in numbered:
        yield Item(f"val/{key_of(name)}", listing.take(path), label=labels[number - 1])


def _read_v2(listing: Listing, folder: Location, part: str, wnids: tuple[str, ...]) -> Iterator[Item]:
    """ImageNetV2, whose folders are named by the class index."""
    for name, path in _images(listing, part).items():
        index = name.split("/")[0]
        if not index.isdecimal() or int(index) >= len(wnids):
            raise UsageError(f"{folder / path}: {index!r} numbers none of the {len(wnids)} classes of the other images")
        yield Item(key_of(path), listing.take(path), label=wnids[int(index)])


def read_imagenet(folder: Location) -> Listing:
    """The training images, the validation images, and those of each ImageNetV2 folder, as far as they are there.

    Raises:
        UsageError: There are none, a tar is incomplete, or labels are missing.
    """
    listing = list_files(folder)
    train = _in_classes(_images(listing, "train")) or _in_classes(_in_tar(listing, folder, TRAIN_TAR, nested=True))
    listing.items = [*_by_class(listing, "train", train), *_read_val(listing, folder)]
    if not listing.items:
        raise UsageError(f"{folder} holds neither class folders (train/n01440764/ and so on) nor {TRAIN_TAR}")
    wnids = table_of(str(item.label) for item in listing.items)
    for part in sorted({path.split("/")[0] for path in listing.left if path.startswith(V2_PREFIX)}):
        listing.items += _read_v2(listing, folder, part, wnids)
    listing.skip_rest(UNUSED)
    return listing
