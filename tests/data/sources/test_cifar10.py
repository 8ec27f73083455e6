"""CIFAR-10 in its binary and its Python version, and batches that are traps."""

import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from ldm_scale.data.images import open_image
from ldm_scale.data.pack import pack
from ldm_scale.data.sources.cifar10 import TEST, TRAIN, read_cifar10
from ldm_scale.data.sources.items import Item
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location
from tests.data.packing import config, packed

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
COUNT = 3


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, as in the official batches."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_python2(self, data: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(data)

    dispatch[bytes] = save_python2


def dump(content: Any) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, 2).dump(content)
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def batch(number: int) -> tuple[np.ndarray, list[int]]:
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (COUNT, 3072), dtype=np.uint8), rng.integers(0, 10, COUNT).tolist()


def write_binary(folder: Path) -> Path:
    folder.mkdir()
    for number, name in enumerate((*TRAIN, *TEST)):
        pixels, labels = batch(number)
        (folder / f"{name}.bin").write_bytes(np.column_stack([np.uint8(labels), pixels]).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    (folder / "readme.html").write_text("<html>")
    return folder


def write_python(folder: Path) -> Path:
    folder.mkdir()
    for number, name in enumerate((*TRAIN, *TEST)):
        pixels, labels = batch(number)
        names = [f"{index}.png".encode() for index in range(COUNT)]
        content = {b"batch_label": b"a batch", b"labels": labels, b"data": pixels, b"filenames": names}
        (folder / name).write_bytes(dump(content))
    meta = {b"num_cases_per_batch": COUNT, b"label_names": [name.encode() for name in NAMES], b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(dump(meta))
    return folder


WRITERS = {"binary": write_binary, "python": write_python}


def read(folder: Path) -> list[Item]:
    return read_cifar10(Location.of(folder)).items


@pytest.mark.parametrize("version", WRITERS)
def test_every_image_is_a_png_of_its_array_with_its_class(tmp_path: Path, version: str) -> None:
    items = read(WRITERS[version](tmp_path / "cifar"))
    sides = [f"train-{index:05d}" for index in range(5 * COUNT)] + [f"test-{index:05d}" for index in range(COUNT)]
    assert [item.key for item in items] == sides
    for index, item in enumerate(items):
        pixels, labels = batch(index // COUNT)
        image = open_image(item.location.read_bytes(), 10**6)
        np.testing.assert_array_equal(np.asarray(image).transpose(2, 0, 1).ravel(), pixels[index % COUNT])
        assert (image.format, item.location.name.rsplit(".")[-1]) == ("PNG", "png")
        assert (item.label, item.captions) == (labels[index % COUNT], ())


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("binary", "data_batch_3.bin"),
        ("binary", "batches.meta.txt"),
        ("python", "test_batch"),
        ("python", "data_batch_1"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, version: str, name: str) -> None:
    folder = WRITERS[version](tmp_path / "cifar")
    (folder / name).unlink()
    with pytest.raises(UsageError, match=f"/{name} does not exist"):
        read(folder)


class Trap:
    """Unpickled without care, it makes the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", ["data_batch_2", "batches.meta"])
def test_a_malicious_batch_runs_no_code(tmp_path: Path, name: str, protocol: int) -> None:
    trap = pickle.dumps({"labels": [], "data": Trap(tmp_path / "trapped")}, protocol)
    folder = write_python(tmp_path / "cifar")
    (folder / name).write_bytes(trap)
    with pytest.raises(UsageError, match=rf"{name} is not read: it asks for \w+\.mkdir"):
        read(folder)
    assert not (tmp_path / "trapped").exists()
    pickle.loads(trap)
    assert (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    "module", ["builtins.eval", "os.system", "numpy.load", "numpy.core.multiarray.fromfile", "_codecs.encode"]
)
def test_no_other_name_can_be_asked_for(tmp_path: Path, module: str) -> None:
    package, name = module.rsplit(".", 1)
    folder = write_python(tmp_path / "cifar")
    (folder / "test_batch").write_bytes(f"c{package}\n{name}\n(S'x'\ntR.".encode())
    with pytest.raises(UsageError, match=f"it asks for {module}"):
        read(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        dump([1, 2]),
        dump(np.zeros(3)),
        dump({b"labels": [1]}),
        dump({b"labels": [[1, 2]], b"data": np.zeros((1, 3072), np.uint8)}),
        dump({b"labels": [1], b"data": np.zeros((2, 3072), np.uint8)}),
        dump({b"labels": [1], b"data": np.zeros((1, 3072))}),
        dump({b"labels": [11], b"data": np.zeros((1, 3072), np.uint8)}),
        dump({b"labels": [-1], b"data": np.zeros((1, 3072), np.uint8)}),
        dump({b"labels": [b"cat"], b"data": np.zeros((1, 3072), np.uint8)}),
    ],
)
def test_a_broken_python_batch_is_named(tmp_path: Path, content: bytes) -> None:
    folder = write_python(tmp_path / "cifar")
    (folder / "data_batch_4").write_bytes(content)
    with pytest.raises(UsageError, match="data_batch_4"):
        read(folder)


@pytest.mark.parametrize("content", [b"", dump([1]), dump({}), dump(np.zeros(3))])
def test_a_broken_list_of_classes_is_named(tmp_path: Path, content: bytes) -> None:
    folder = write_python(tmp_path / "cifar")
    (folder / "batches.meta").write_bytes(content)
    with pytest.raises(UsageError, match=r"batches\.meta"):
        read(folder)


@pytest.mark.parametrize("content", [b"", bytes(3072), bytes([10]) + bytes(3072)])
def test_a_broken_binary_batch_is_named(tmp_path: Path, content: bytes) -> None:
    folder = write_binary(tmp_path / "cifar")
    (folder / "data_batch_4.bin").write_bytes(content)
    with pytest.raises(UsageError, match=r"data_batch_4\.bin"):
        read(folder)


@pytest.mark.parametrize("name", [*TRAIN, *TEST])
def test_a_batch_that_is_cut_between_two_images_is_refused(tmp_path: Path, name: str) -> None:
    """It would shift the numbers of all that follow."""
    file = write_binary(tmp_path / "cifar") / f"{name}.bin"
    file.write_bytes(file.read_bytes()[:-3073])
    with pytest.raises(UsageError, match=f"has {COUNT} images and data_batch_1 2" if name == TRAIN[0] else name):
        read(file.parent)


@pytest.mark.parametrize("version", WRITERS)
def test_the_batches_are_packed_by_a_papers_index_file(tmp_path: Path, version: str) -> None:
    WRITERS[version](tmp_path / "cifar")
    np.savez(tmp_path / "split.npz", mia_train_idxs=[0, 7], mia_eval_idxs=[4], ratio=0.5)
    manifest = pack(config(tmp_path / "cifar", tmp_path / "out", dataset="cifar10", split=str(tmp_path / "split.npz")))
    sides = packed(tmp_path / "out")
    assert (list(sides["members"]), list(sides["heldout"])) == (["train-00000", "train-00007"], ["train-00004"])
    sample = sides["members"]["train-00007"]
    pixels, labels = batch(2)
    np.testing.assert_array_equal(np.asarray(open_image(sample.image, 10**6)).transpose(2, 0, 1).ravel(), pixels[1])
    assert manifest.classes[sample.label or 0] == NAMES[labels[1]]
    assert sample.suffix == "png"
