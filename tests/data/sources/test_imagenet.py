"""ImageNet-1K as class folders and as the official tar of class tars."""

import io
import tarfile
from pathlib import Path

import pytest

from ldm_scale.data.pack import pack
from ldm_scale.data.sources.imagenet import TAR, read_imagenet
from ldm_scale.errors import UsageError
from ldm_scale.storage import Location
from tests.conftest import make_image
from tests.data.sources.official import odd_jpeg
from tests.data.test_pack import config, packed

CLASSES = ("n01440764", "n01443537", "n15075141")


def images() -> dict[str, bytes]:
    """Path to bytes, four images a class; as in the real set, one JPEG is a PNG."""
    names = [f"{wnid}/{wnid}_{number}.JPEG" for wnid in CLASSES for number in (10026, 10027, 29, 7)]
    found = {name: odd_jpeg(number) for number, name in enumerate(names)}
    buffer = io.BytesIO()
    make_image(99, 24).save(buffer, "PNG")
    return found | {names[5]: buffer.getvalue()}


def write_folders(folder: Path) -> None:
    for name, data in images().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def write_tar(folder: Path) -> None:
    folder.mkdir()
    with tarfile.open(folder / TAR, "w") as outer:
        for wnid in reversed(CLASSES):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as inner:
                for name, data in images().items():
                    if name.startswith(wnid):
                        add(inner, name.split("/")[1], data)
            add(outer, f"{wnid}.tar", buffer.getvalue())


@pytest.mark.parametrize("layout", ["folders", "tar"])
def test_both_layouts_give_the_same_shards(tmp_path: Path, layout: str) -> None:
    source = tmp_path / "source"
    if layout == "tar":
        write_tar(source)
    else:
        write_folders(source / "train")
    expected = {f"train/{name.removesuffix('.JPEG')}": data for name, data in images().items()}
    assert [item.key for item in read_imagenet(Location.of(source))] == sorted(expected)
    manifest = pack(config(source, tmp_path / "out", dataset="imagenet", near_duplicates=0.001))
    assert manifest.classes == CLASSES
    sides = packed(tmp_path / "out")
    samples = sides["members"] | sides["heldout"]
    assert {key: sample.image for key, sample in samples.items()} == expected
    assert all(CLASSES[sample.label or 0] == key.split("/")[1] for key, sample in samples.items())
    assert {sample.suffix for sample in samples.values()} == {"jpeg"}


def test_validation_images_follow_the_training_images(tmp_path: Path) -> None:
    write_tar(tmp_path / "source")
    write_folders(tmp_path / "source/val")
    sides = [item.key.split("/")[0] for item in read_imagenet(Location.of(tmp_path / "source"))]
    assert sides == ["train"] * 12 + ["val"] * 12


def test_an_incomplete_tar_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "source")
    tar = tmp_path / "source" / TAR
    data = tar.read_bytes()
    with tarfile.open(tar) as outer:
        boundaries = [member.offset for member in outer][1:]
    for cut in (0, 100, 3000, 12000, *boundaries):
        tar.write_bytes(data[:cut])
        with pytest.raises(UsageError, match=TAR):
            read_imagenet(Location.of(tmp_path / "source"))


def _cut_between_members() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as inner:
        add(inner, "n01440764_1.JPEG", bytes(512))
    return buffer.getvalue()[:1024]


CUT = _cut_between_members()


@pytest.mark.parametrize("data", [b"<html>" * 1000, b"", CUT])
def test_a_class_tar_that_is_none_is_named(tmp_path: Path, data: bytes) -> None:
    with tarfile.open(tmp_path / TAR, "w") as outer:
        add(outer, "n01440764.tar", data)
    with pytest.raises(UsageError, match=TAR):
        read_imagenet(Location.of(tmp_path))


def test_a_folder_without_either_layout_says_what_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "train/cats").mkdir(parents=True)
    make_image(0).save(tmp_path / "train/cats/1.png")
    with pytest.raises(UsageError, match=rf"class folders \(train/n01440764/ and so on\) nor {TAR}"):
        read_imagenet(Location.of(tmp_path))
