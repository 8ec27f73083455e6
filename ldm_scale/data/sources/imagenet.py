"""ImageNet-1K: class folders in `train/` and `val/`, or the official tars, read without unpacking; and ImageNetV2.

Keys are `train/n01440764/n01440764_10026`, `val/n01440764/ILSVRC2012_val_00000293` from class folders,
`val/ILSVRC2012_val_00000293` from the official validation set, and `imagenetv2-.../0/...`. Within each part items come
by key, as torchvision orders them; labels are WordNet ids, so that the class index is the place among the sorted ids.
"""

import io
import re
from collections.abc import Iterable, Iterator

import scipy.io
from scipy.io.matlab import MatReadError

from ldm_scale.data.sources.items import Item, Stored, is_image, key_of
from ldm_scale.data.sources.tars import tarred_files
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location, sub_locations

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
V2_PREFIX = "imagenetv2-"
DEVKIT = "ILSVRC2012_devkit_t12/data"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_CLASS = re.compile(r"n\d{8}")
_VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")

# (path below a part such as train, image) by path.
Images = list[tuple[str, Stored]]


def _images(files: Iterable[tuple[str, Stored]]) -> Images:
    return sorted(((path, stored) for path, stored in files if is_image(path)), key=lambda image: image[0])


def _in_classes(images: Images) -> Images:
    return [(path, stored) for path, stored in images if "/" in path and _CLASS.fullmatch(path.split("/")[0])]


def _wnids_by_number(meta: Location) -> dict[int, str]:
    """The devkit's meta.mat: ILSVRC2012_ID to WordNet id."""
    try:
        synsets = scipy.io.loadmat(io.BytesIO(meta.read_bytes()), squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    except (OSError, ValueError, KeyError, IndexError, TypeError, NotImplementedError, MatReadError):
        raise UsageError(f"{meta} is not the list of synsets of ILSVRC2012_devkit_t12") from None


def _validation_labels(devkit: Location) -> list[str]:
    """The WordNet ids of the validation images, in the order of their numbers."""
    for name in (TRUTH, "meta.mat"):
        if not (devkit / name).is_file():
            raise UsageError(
                f"{devkit / name} does not exist; the validation images need ILSVRC2012_devkit_t12, unpacked"
            )
    wnids = _wnids_by_number(devkit / "meta.mat")
    try:
        return [wnids[int(line)] for line in (devkit / TRUTH).read_text().split()]
    except (ValueError, KeyError):
        raise UsageError(f"{devkit / TRUTH} must hold a number of a synset of meta.mat a line") from None


def _read_train(folder: Location) -> Iterator[Item]:
    images = _in_classes(_images(sub_locations(folder / "train", "")))
    if not images and (folder / TRAIN_TAR).is_file():
        images = _in_classes(_images((file.name, file) for file in tarred_files(folder / TRAIN_TAR, nested=True)))
    for path, stored in images:
        yield Item(f"train/{key_of(path)}", stored, label=path.split("/")[0])


def _read_val(folder: Location) -> Iterator[Item]:
    """Class folders as most people arrange them, or the images as they are published, with the devkit's labels."""
    images = _images(sub_locations(folder / "val", ""))
    if classes := _in_classes(images):
        for path, stored in classes:
            yield Item(f"val/{key_of(path)}", stored, label=path.split("/")[0])
        return
    if not images and (folder / VAL_TAR).is_file():
        images = _images((file.name, file) for file in tarred_files(folder / VAL_TAR))
    numbered = [(path, stored, int(match[1])) for path, stored in images if (match := _VAL_NAME.fullmatch(path))]
    if not numbered:
        return
    labels = _validation_labels(folder / DEVKIT)
    if beyond := next((path for path, _, number in numbered if not 1 <= number <= len(labels)), None):
        raise UsageError(f"{folder / DEVKIT / TRUTH} has {len(labels)} labels, none for {beyond}")
    for path, stored, number in numbered:
        yield Item(f"val/{key_of(path)}", stored, label=labels[number - 1])


def _read_v2(folder: Location, wnids: list[str]) -> Iterator[Item]:
    """ImageNetV2, whose folders are named by the class index."""
    for path, stored in _images(sub_locations(folder, "")):
        index = path.split("/")[0]
        if not index.isdecimal() or int(index) >= len(wnids):
            raise UsageError(f"{folder}/{path}: {index!r} numbers none of the {len(wnids)} classes of the other images")
        yield Item(key_of(f"{folder.name}/{path}"), stored, label=wnids[int(index)])


def read_imagenet(folder: Location) -> list[Item]:
    """The training images, the validation images, and those of each ImageNetV2 folder, as far as they are there.

    Raises:
        UsageError: There are none, a tar is incomplete, or labels are missing.
    """
    items = [*_read_train(folder), *_read_val(folder)]
    if not items:
        raise UsageError(f"{folder} holds neither class folders (train/n01440764/ and so on) nor {TRAIN_TAR}")
    wnids = sorted({str(item.label) for item in items})
    for part in folder.folders():
        if part.name.startswith(V2_PREFIX):
            items += _read_v2(part, wnids)
    return items
