"""ImageNet-1K as class folders and as the official tar of class tars."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from ldm_scale.data.classes import imagenet_wnids
from ldm_scale.data.pack import pack
from ldm_scale.data.sources.imagenet import TRAIN_TAR, VAL_TAR, read_imagenet
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location, sub_locations
from tests.conftest import make_image
from tests.data.packing import config, packed, tree
from tests.data.sources.official import add, odd_jpeg

# The first three, so that a tiny target of three classes takes them.
CLASSES = ("n01440764", "n01443537", "n01484850")


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


def write_tar(folder: Path) -> None:
    folder.mkdir()
    with tarfile.open(folder / TRAIN_TAR, "w") as outer:
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
    assert [item.key for item in read_imagenet(Location.of(source)).items] == sorted(expected)
    manifest = pack(config(source, tmp_path / "out", dataset="imagenet", near_duplicates=0.94))
    assert manifest.classes == imagenet_wnids()
    sides = packed(tmp_path / "out")
    samples = sides["members"] | sides["heldout"]
    assert {key: sample.image for key, sample in samples.items()} == expected
    assert all(imagenet_wnids()[sample.label or 0] == key.split("/")[1] for key, sample in samples.items())
    assert {sample.suffix for sample in samples.values()} == {"jpeg"}


def test_validation_images_follow_the_training_images(tmp_path: Path) -> None:
    write_tar(tmp_path / "source")
    write_folders(tmp_path / "source/val")
    sides = [item.key.split("/")[0] for item in read_imagenet(Location.of(tmp_path / "source")).items]
    assert sides == ["train"] * 12 + ["val"] * 12


def test_an_incomplete_tar_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "source")
    tar = tmp_path / "source" / TRAIN_TAR
    data = tar.read_bytes()
    with tarfile.open(tar) as outer:
        boundaries = [member.offset for member in outer][1:]
    for cut in (0, 100, 3000, 12000, *boundaries):
        tar.write_bytes(data[:cut])
        with pytest.raises(UsageError, match=TRAIN_TAR):
            read_imagenet(Location.of(tmp_path / "source"))


def _cut_between_members() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as inner:
        add(inner, "n01440764_1.JPEG", bytes(512))
    return buffer.getvalue()[:1024]


CUT = _cut_between_members()


@pytest.mark.parametrize("data", [b"<html>" * 1000, b"", CUT])
def test_a_class_tar_that_is_none_is_named(tmp_path: Path, data: bytes) -> None:
    with tarfile.open(tmp_path / TRAIN_TAR, "w") as outer:
        add(outer, "n01440764.tar", data)
    with pytest.raises(UsageError, match=TRAIN_TAR):
        read_imagenet(Location.of(tmp_path))


def test_a_folder_without_either_layout_says_what_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "train/cats").mkdir(parents=True)
    make_image(0).save(tmp_path / "train/cats/1.png")
    with pytest.raises(UsageError, match=rf"class folders \(train/n01440764/ and so on\) nor {TRAIN_TAR}"):
        read_imagenet(Location.of(tmp_path))


# Number, WordNet id and children of each synset; only leaves are classes, and numbers are not in their order.
SYNSETS = [(1, CLASSES[2], 0), (2, CLASSES[0], 0), (3, CLASSES[1], 0), (1001, "n00001740", 3)]
TRUTH = [3, 1, 1, 2, 3]
VAL_LABELS = [CLASSES[1], CLASSES[2], CLASSES[2], CLASSES[0], CLASSES[1]]


def meta_mat() -> bytes:
    """As scipy reads the official file: an n x 1 array of structures, compressed."""
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(np.float64(number), wnid, "a word", np.float64(children)) for number, wnid, children in SYNSETS]
    file = io.BytesIO()
    scipy.io.savemat(file, {"synsets": np.array(rows, kind).reshape(-1, 1)}, do_compression=True)
    return file.getvalue()


def write_devkit(folder: Path) -> Path:
    data = folder / "ILSVRC2012_devkit_t12/data"
    data.mkdir(parents=True)
    (data / "meta.mat").write_bytes(meta_mat())
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in TRUTH))
    return data


def write_validation(folder: Path, layout: str) -> dict[str, bytes]:
    found = {f"ILSVRC2012_val_{number:08d}.JPEG": odd_jpeg(number) for number in range(1, 6)}
    (folder / "val").mkdir(parents=True)
    if layout == "tar":
        with tarfile.open(folder / VAL_TAR, "w") as tar:
            for name in sorted(found, reverse=True):
                add(tar, name, found[name])
    else:
        for name, data in found.items():
            (folder / "val" / name).write_bytes(data)
    return found


@pytest.mark.parametrize("layout", ["tar", "folder"])
def test_the_official_validation_set_is_held_out_with_the_devkits_labels(tmp_path: Path, layout: str) -> None:
    source = tmp_path / "source"
    write_tar(source)
    write_devkit(source)
    found = write_validation(source, layout)
    manifest = pack(config(source, tmp_path / "out", dataset="imagenet", heldout="val/"))
    assert manifest.classes == imagenet_wnids()
    sides = packed(tmp_path / "out")
    assert len(sides["members"]) == 12
    expected = {f"val/{name[:-5]}": data for name, data in found.items()}
    assert {key: sample.image for key, sample in sides["heldout"].items()} == expected
    assert [imagenet_wnids()[sides["heldout"][key].label or 0] for key in sorted(expected)] == VAL_LABELS


def test_imagenet_v2_is_held_out_by_class_index(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_tar(source)
    for index in range(3):
        path = source / f"imagenetv2-threshold0.7-format-val/{index}/{index}abc.jpeg"
        path.parent.mkdir(parents=True)
        path.write_bytes(odd_jpeg(50 + index))
    changes = {"dataset": "imagenet", "members": "train/", "heldout": "imagenetv2-"}
    assert pack(config(source, tmp_path / "out", **changes)).classes == imagenet_wnids()
    heldout = packed(tmp_path / "out")["heldout"]
    assert {key: sample.label for key, sample in heldout.items()} == {
        f"imagenetv2-threshold0_7-format-val/{index}/{index}abc": index for index in range(3)
    }
    (source / "imagenetv2-threshold0.7-format-val/1000").mkdir()
    (source / "imagenetv2-threshold0.7-format-val/1000/x.jpeg").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"1000/x\.jpeg: '1000' numbers none of the 1000 classes"):
        read_imagenet(Location.of(source))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("meta.mat", None),
        ("meta.mat", b""),
        ("meta.mat", b"<html>" * 100),
        ("meta.mat", meta_mat()[:200] + b"damaged" + meta_mat()[207:]),
        ("ILSVRC2012_validation_ground_truth.txt", None),
        ("ILSVRC2012_validation_ground_truth.txt", b"1\n2\n"),
        ("ILSVRC2012_validation_ground_truth.txt", b"1\n2\n3\n4\n9\n"),
        ("ILSVRC2012_validation_ground_truth.txt", b"<html>"),
    ],
)
def test_a_devkit_that_cannot_be_used_is_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    write_validation(tmp_path, "folder")
    path = write_devkit(tmp_path) / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UsageError, match=f"ILSVRC2012_devkit_t12/data/{name}"):
        read_imagenet(Location.of(tmp_path))


def test_the_official_tar_on_s3_gives_the_same_bytes(tmp_path: Path, bucket: str) -> None:
    write_tar(tmp_path / "source")
    (Location.of(bucket) / TRAIN_TAR).replace((tmp_path / "source" / TRAIN_TAR).read_bytes())
    changes = {"dataset": "imagenet", "near_duplicates": 0.94, "shard_samples": 5}
    local = pack(config(tmp_path / "source", tmp_path / "out", **changes))
    there = config(tmp_path, tmp_path, **changes).model_copy(update={"source": bucket, "out": f"{bucket}/out"})
    assert pack(there) == local
    written = dict(sub_locations(Location.of(f"{bucket}/out"), ""))
    assert {name: location.read_bytes() for name, location in written.items()} == tree(tmp_path / "out")
