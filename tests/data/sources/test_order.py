"""Numbers name images: the order of the files that hold them is that of their splits, or is refused."""

import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldm_scale.data.manifest import read_manifest
from ldm_scale.data.pack import pack
from ldm_scale.data.sources.order import order_files
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location
from tests.data.packing import config, keys
from tests.data.sources.official import add, odd_jpeg


@pytest.mark.parametrize(
    "expected",
    [
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"],
        ["train-0.parquet", "validation-0.parquet", "test-0.parquet"],
        ["train/0000.parquet", "train/0001.parquet", "validation/0000.parquet", "test/0000.parquet"],
        ["training_1.tar", "dev_1.tar", "evaluation_1.tar"],
        ["imagenet1k-train-0000.tar", "imagenet1k-val-00.tar"],
        ["a.config/train-0.parquet", "a.config/test-0.parquet"],
        ["data/train-0.parquet", "test/0.parquet"],
        ["part-0.parquet", "part-1.parquet"],
        ["00000/a.tar", "00001/a.tar"],
        ["trainset.parquet", "testset.parquet"],
        ["cifarTrain.parquet", "cifarVAL.parquet", "CIFARTest.parquet"],
        ["x1.parquet", "x2.parquet"],
    ],
)
def test_splits_come_as_train_validation_test(expected: list[str]) -> None:
    """Files that name none come by name if that differs in numbers alone."""
    assert order_files(expected[::-1]) == (expected, "")


@pytest.mark.parametrize(
    ("paths", "first"),
    [
        (["train-0.parquet", "unlabeled-0.parquet"], "unlabeled-0.parquet"),
        (["train/test-0.parquet", "train/train-0.parquet"], "train/test-0.parquet"),
        (["a/train-0.parquet", "b/train-0.parquet"], "'a' and 'b'"),
        (["b/test-0.parquet", "test-0.parquet"], "'.' and 'b'"),
        (["latest.parquet", "trainer.parquet"], "'latest.parquet' and 'trainer.parquet'"),
        (["gallery/0.tar", "query/0.tar"], "'gallery/0.tar' and 'query/0.tar'"),
        (["part-10.parquet", "part-2.parquet"], "'part-10.parquet' comes before 'part-2.parquet'"),
        (["train/10.tar", "train/9.tar", "test/1.tar"], "train/10.tar"),
    ],
)
def test_an_order_that_is_not_known_is_doubted(paths: list[str], first: str) -> None:
    ordered, doubt = order_files(paths)
    assert sorted(ordered) == sorted(paths)
    assert first in doubt


@pytest.mark.parametrize(
    ("paths", "beginnings", "expected"),
    [
        (["data/a-0.parquet", "data/a-1.parquet", "data/b-0.parquet"], ("b", "a"), [2, 0, 1]),
        (["test-0.parquet", "train-0.parquet", "unlabeled-0.parquet"], ("test", "train", "unlabeled"), [0, 1, 2]),
        (["a/train-0.parquet", "b/train-0.parquet"], ("b/train", "a/train"), [1, 0]),
        (["part-10.parquet", "part-2.parquet"], ("part-2", "part-10"), [1, 0]),
    ],
)
def test_an_order_that_is_said_is_taken(paths: list[str], beginnings: tuple[str, ...], expected: list[int]) -> None:
    assert order_files(paths, beginnings) == ([paths[place] for place in expected], "")


@pytest.mark.parametrize("beginnings", [("train",), ("train", "te", "test"), ("train", "test", "x")])
def test_every_file_begins_as_one_of_the_order(beginnings: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=r"^order: "):
        order_files(["test-0.parquet", "train-0.parquet"], beginnings)


def write_parquet(folder: Path, counts: dict[str, int]) -> Path:
    """So many rows in each file, no two images alike."""
    start = 0
    for name, count in counts.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": [odd_jpeg(start + n) for n in range(count)]}), path)
        start += count
    return folder


def write_tars(folder: Path, counts: dict[str, int]) -> Path:
    folder.mkdir()
    for name, count in counts.items():
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for n in range(count):
                add(tar, f"{n}.jpg", odd_jpeg(n))
    return folder


def numbered(folder: Path, dataset: str, **changes: object) -> tuple[tuple[list[str], list[str]], str]:
    """The keys of both sides, by an index file of members 0 and 3 and held-out 2 and 4; and what is said of it."""
    np.savez(folder / "split.npz", mia_train_idxs=[3, 0], mia_eval_idxs=[4, 2])
    pack(config(folder / "source", folder / "out", dataset=dataset, split=str(folder / "split.npz"), **changes))
    return keys(folder / "out"), read_manifest(Location.of(folder / "out")).split


NAMES = {"test-00000-of-00001": 2, "train-00000-of-00002": 2, "train-00001-of-00002": 1}


@pytest.mark.parametrize(
    ("dataset", "write", "dash"), [("parquet", write_parquet, "-00000"), ("webdataset", write_tars, "/")]
)
def test_an_index_file_counts_train_before_test_and_says_so(
    tmp_path: Path, dataset: str, write: object, dash: str
) -> None:
    write(tmp_path / "source", NAMES)  # type: ignore[operator]
    sides, said = numbered(tmp_path, dataset)
    zero, last = f"train-00000-of-00002{dash}0", f"train-00001-of-00002{dash}0"
    test = [f"test-00000-of-00001{dash}{n}" for n in range(2)]
    assert sides == (sorted([zero, test[0]]), sorted([last, test[1]]))
    place = "parquet row 0" if dataset == "parquet" else "tar 0.jpg"
    assert f"image 0 is {zero} (train-00000-of-00002.{place})" in said
    assert f"of the members the first image 0 is {zero}" in said
    assert f"of the held-out the first image 2 is {last} (train-00001-of-00002.{place})" in said


def test_the_order_that_is_said_wins(tmp_path: Path) -> None:
    write_parquet(tmp_path / "source", NAMES)
    sides, _ = numbered(tmp_path, "parquet", order="test,train")
    assert sides[0] == ["test-00000-of-00001-000000", "train-00000-of-00002-000001"]
    assert sides[1] == ["train-00000-of-00002-000000", "train-00001-of-00002-000000"]


@pytest.mark.parametrize(("dataset", "write"), [("parquet", write_parquet), ("webdataset", write_tars)])
def test_numbers_are_refused_if_the_order_is_not_known_and_keys_are_not(
    tmp_path: Path, dataset: str, write: object
) -> None:
    write(tmp_path / "source", {"train-0": 3, "other-0": 2})  # type: ignore[operator]
    with pytest.raises(UsageError, match=rf"'other-0\.{'parquet' if dataset == 'parquet' else 'tar'}'.*--order"):
        numbered(tmp_path, dataset)
    assert not (tmp_path / "out").exists()
    pack(config(tmp_path / "source", tmp_path / "out", dataset=dataset))
    assert sum(map(len, keys(tmp_path / "out"))) == 5


def test_an_order_of_files_is_refused_if_the_source_has_its_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="order: it is for parquet, arrow, webdataset"):
        config(tmp_path, tmp_path / "out", dataset="coco", order="train,val")
