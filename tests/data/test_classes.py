"""Class numbers: integers stay, ImageNet's ids have their official index, names are sorted; nothing is mixed."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldm_scale.data.classes import imagenet_wnids, number_classes, table_difference
from ldm_scale.data.pack import pack
from ldm_scale.errors import UsageError
from tests.conftest import make_image
from tests.data.packing import config, packed
from tests.data.sources.official import odd_jpeg


def labels(out: Path) -> dict[str, int | None]:
    """The class of each sample by its key."""
    return {key: sample.label for side in packed(out).values() for key, sample in side.items()}


def class_folders(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        make_image(number).save(folder / name / "a.png")
    return folder


def test_folders_that_are_numbers_keep_them(tmp_path: Path) -> None:
    manifest = pack(config(class_folders(tmp_path / "source", "0", "1", "2", "10"), tmp_path / "out"))
    assert labels(tmp_path / "out") == {"0/a": 0, "1/a": 1, "2/a": 2, "10/a": 10}
    # So that a denoiser that is conditional on classes has as many.
    assert manifest.classes == tuple(map(str, range(11)))


@pytest.mark.parametrize("suffix", ["", ".0"])
def test_labels_of_a_list_that_are_numbers_keep_them(tmp_path: Path, suffix: str) -> None:
    source = class_folders(tmp_path / "source", "x", "y", "z")
    rows = [f"{name}/a.png,{number}{suffix}" for name, number in (("x", 7), ("y", 10), ("z", 2))]
    (source / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    pack(config(source, tmp_path / "out"))
    assert labels(tmp_path / "out") == {"x/a": 7, "y/a": 10, "z/a": 2}


def test_a_subset_of_imagenet_has_the_official_numbers(tmp_path: Path) -> None:
    wnids = imagenet_wnids()
    assert (len(wnids), wnids[0], wnids[-1], list(wnids)) == (1000, "n01440764", "n15075141", sorted(set(wnids)))
    subset = {"n01443537": 1, "n02123045": 281, "n15075141": 999}
    for dataset, folder in (("folder", ""), ("imagenet", "train")):
        source = tmp_path / dataset
        class_folders(source / folder, *subset)
        manifest = pack(config(source, tmp_path / f"{dataset}-out", dataset=dataset))
        found = {key.removeprefix("train/").split("/")[0]: n for key, n in labels(tmp_path / f"{dataset}-out").items()}
        assert found == subset
        assert manifest.classes == wnids


def test_names_are_numbered_as_torchvision_sorts_them(tmp_path: Path) -> None:
    names = ["cat", "Zebra", "ant", "10-cats", "2-dogs", "élan"]
    manifest = pack(config(class_folders(tmp_path / "source", *names), tmp_path / "out"))
    assert manifest.classes == ("10-cats", "2-dogs", "Zebra", "ant", "cat", "élan")
    assert labels(tmp_path / "out")["cat/a"] == 4


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (["7", "cat", "10"], "cat here: the class 'cat' is no number, and '7' .* is one"),
        ([3, "cat"], "'cat' is no number, and 3 "),
        (["01", "1"], "'01' .* and '1' .* are one number"),
        (["-1", "2"], "'-1' is below 0"),
        ([10**18, 2], "1000000000000000000 has more digits"),
    ],
)
def test_labels_of_two_kinds_are_refused(found: list[str | int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        number_classes({label: f"{label} here" for label in found})


def test_a_number_beyond_the_table_stays_and_a_name_beyond_it_is_refused() -> None:
    assert number_classes({"b": "", 7: "", "9": ""}, ("a", "b"))[0] == {"b": 1, 7: 7, "9": 9}
    with pytest.raises(UsageError, match="here: the class 'c' is no number, none of the source's table"):
        number_classes({"c": "here"}, ("a", "b"))


def write_parquet(folder: Path, column: pa.Array, names: list[str] | None = None) -> Path:
    folder.mkdir()
    table = pa.table({"image": [odd_jpeg(number) for number in range(len(column))], "label": column})
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, folder / "a.parquet")
    return folder


DIGITS = tuple(map(str, range(11)))


@pytest.mark.parametrize(
    ("column", "names", "expected", "table"),
    [
        (pa.array([7, 10, 2]), None, [7, 10, 2], DIGITS),
        (pa.array([10**9, 3]), None, [10**9, 3], ()),
        (pa.array([1, 0, -1]), ["no", "yes"], [1, 0, None], ("no", "yes")),
        # As datasets infers a table from folders named by numbers.
        (pa.array([0, 2, 1]), ["0", "1", "10", "2"], [0, 2, 1], ("0", "1", "10", "2")),
        (pa.array(["dog", "cat", None]), None, [1, 0, None], ("cat", "dog")),
        (pa.array(["dog", "cat", "dog"]).dictionary_encode(), None, [1, 0, 1], ("cat", "dog")),
        (pa.array(["7", "10", "2"]), None, [7, 10, 2], DIGITS),
    ],
)
def test_the_label_column_of_parquet_is_kept(
    tmp_path: Path, column: pa.Array, names: list[str] | None, expected: list[int | None], table: tuple[str, ...]
) -> None:
    source = write_parquet(tmp_path / "source", column, names)
    manifest = pack(config(source, tmp_path / "out", dataset="parquet"))
    assert labels(tmp_path / "out") == {f"a-{number:06d}": label for number, label in enumerate(expected)}
    assert manifest.classes == table


def test_a_label_column_of_another_kind_is_refused_unless_none_is_asked_for(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "source", pa.array([[1, 2], [3], []]))
    with pytest.raises(UsageError, match="column 'label' must hold one class a row"):
        pack(config(source, tmp_path / "out", dataset="parquet"))
    pack(config(source, tmp_path / "out", dataset="parquet", label_column=""))
    assert set(labels(tmp_path / "out").values()) == {None}


def test_two_files_of_other_tables_are_refused(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "source", pa.array([0, 1]), ["a", "b"])
    write_parquet(source / "more", pa.array([0, 1]), ["b", "a"])
    with pytest.raises(UsageError, match=r"more/a\.parquet has another table of classes"):
        pack(config(source, tmp_path / "out", dataset="parquet"))


def test_our_own_shards_keep_their_table(tmp_path: Path) -> None:
    first = pack(config(class_folders(tmp_path / "source", "cat", "dog"), tmp_path / "first"))
    again = pack(config(tmp_path / "first", tmp_path / "again", dataset="webdataset"))
    assert again.classes == first.classes == ("cat", "dog")


IMAGENET_WORDS = ["tench, Tinca tinca", "goldfish, Carassius auratus", *["?"] * 997, "toilet tissue, toilet paper"]


@pytest.mark.parametrize(
    ("ours", "theirs", "difference"),
    [
        (("cat", "dog"), ("Cat, Felis catus", "dog"), None),
        ((), ("cat", "dog"), None),
        (("cat", "dog"), (), None),
        (("0", "1", "2"), ("cat", "dog"), None),
        (imagenet_wnids(), imagenet_wnids(), None),
        (imagenet_wnids(), IMAGENET_WORDS, None),
        (imagenet_wnids(), IMAGENET_WORDS[::-1], "class 0 is 'tench'"),
        (("cat", "dog"), ("dog", "cat"), "class 0 is 'cat' in the shards' manifest, 'dog' in the target"),
        (("cat", "dog"), ("cat", "dog", "elk"), "2 names in the shards' manifest, 3 in the target"),
    ],
)
def test_tables_are_compared_where_both_are_known(
    ours: tuple[str, ...], theirs: tuple[str, ...], difference: str | None
) -> None:
    found = table_difference(ours, theirs)
    assert (found is None) == (difference is None)
    assert (difference or "") in (found or "")
