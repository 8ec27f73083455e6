"""CIFAR-10, binary version (cifar-10-batches-bin) or Python version (cifar-10-batches-py).

Keys are `train-00000` to `train-49999` and `test-00000` to `test-09999`, in the order of the batches, as torchvision
and the papers' index files number them. The source has arrays, so images are PNGs.
"""

import io
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ldm_scale.data.images import encode_png
from ldm_scale.data.sources.items import UNUSED, Item, Listing, Stored, list_files
from ldm_scale.data.sources.text import read_text
from ldm_scale.errors import UsageError, one_line, shaped
from ldm_scale.files.storage import Location

PIXELS = 3 * 32 * 32
TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = ("test_batch",)
# All that the official batches name: how NumPy rebuilds an array. Looked up under the names of NumPy 1 and 2.
_ARRAYS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
}


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles containers, numbers, strings and NumPy arrays; refuses everything else before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR-10 batch needs")
        return _ARRAYS[module, name]


@dataclass(frozen=True, eq=False)
class ArrayImage:
    """One image of a batch, uint8 (3, 32, 32), encoded when it is asked for."""

    batch: Stored
    number: int
    pixels: np.ndarray

    name = "array.png"

    def __str__(self) -> str:
        return f"{self.batch} image {self.number}"

    def size(self) -> int:
        return self.pixels.nbytes

    def read_bytes(self) -> bytes:
        return encode_png(Image.fromarray(self.pixels.transpose(1, 2, 0)))


def _unpickle(location: Stored) -> Any:
    data = io.BytesIO(location.read_bytes())
    try:
        return _PlainUnpickler(data, encoding="latin1").load()
    except Exception as error:  # broken pickles raise nearly anything
        raise UsageError(f"{location} is not read: {one_line(error)}") from None


def _python_batch(location: Stored) -> tuple[np.ndarray, np.ndarray]:
    with shaped(f"{location} is no batch of CIFAR-10: it needs data, uint8 (n, {PIXELS}), and n labels"):
        content = _unpickle(location)
        pixels, labels = content["data"], np.array(content["labels"])
        found = pixels.dtype, pixels.shape, labels.dtype.kind, labels.ndim
        if found != (np.uint8, (len(labels), PIXELS), "i", 1):
            raise ValueError
    return pixels, labels


def _binary_batch(location: Stored) -> tuple[np.ndarray, np.ndarray]:
    data = location.read_bytes()
    if not data or len(data) % (1 + PIXELS):
        raise UsageError(f"{location} is no batch of CIFAR-10: {len(data)} bytes are not records of {1 + PIXELS}")
    records = np.frombuffer(data, np.uint8).reshape(-1, 1 + PIXELS)
    return records[:, 1:], records[:, 0].astype(int)


def _read_batch(batch: Stored) -> tuple[np.ndarray, np.ndarray]:
    return _binary_batch(batch) if batch.name.endswith(".bin") else _python_batch(batch)


def _class_names(meta: Stored) -> list[str]:
    if meta.name.endswith(".txt"):
        return read_text(meta).split()
    with shaped(f"{meta} does not hold the list label_names"):
        return list(map(str, _unpickle(meta)["label_names"]))


def _read_side(side: str, batches: list[Stored], size: int, classes: int) -> Iterator[Item]:
    count = 0
    for batch in batches:
        pixels, labels = _read_batch(batch)
        if len(labels) != size:
            raise UsageError(
                f"{batch} has {len(labels)} images and {TRAIN[0]} {size}; all batches of CIFAR-10 have as many"
            )
        if not all(0 <= label < classes for label in labels):
            raise UsageError(f"{batch} has a label outside 0 to {classes - 1}")
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            location = ArrayImage(batch, number, image.reshape(3, 32, 32))
            yield Item(f"{side}-{count:05d}", location, label=int(label))
            count += 1


def read_cifar10(folder: Location) -> Listing:
    """The images of the training batches, then those of the test batch; labels are the ten classes.

    Raises:
        UsageError: A batch is missing, broken, not as long as the others, or a pickle of anything but plain containers
            and arrays.
    """
    listing = list_files(folder)
    suffix, meta = (".bin", "batches.meta.txt") if "data_batch_1.bin" in listing.left else ("", "batches.meta")
    needed = [meta, *(name + suffix for name in (*TRAIN, *TEST))]
    if absent := next((name for name in needed if name not in listing.left), None):
        raise UsageError(
            f"{folder / absent} does not exist; SOURCE must be cifar-10-batches-bin or cifar-10-batches-py, complete"
        )
    listing.classes = tuple(_class_names(listing.use(meta)))
    size = len(_read_batch(listing.left[TRAIN[0] + suffix])[1])
    for side, batches in {"train": TRAIN, "test": TEST}.items():
        files = [listing.use(name + suffix) for name in batches]
        listing.items += _read_side(side, files, size, len(listing.classes))
    listing.seen += len(listing.items)
    listing.skip_rest(UNUSED)
    return listing
