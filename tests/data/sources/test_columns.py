"""Columns of images and captions of every type, in Parquet and in Arrow files, read in little memory."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldm_scale.data.pack import pack
from ldm_scale.data.sources import SOURCES
from ldm_scale.data.sources.columns import Columns
from ldm_scale.data.sources.items import Item
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location
from tests.data.packing import config, packed
from tests.data.sources.official import odd_jpeg
from tests.data.sources.saved import save_to_disk

IMAGES = [odd_jpeg(number) for number in range(3)]
STRUCT = [("path", pa.string())]


def write(folder: Path, dataset: str, table: pa.Table) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if dataset == "parquet":
        pq.write_table(table, folder / "a.parquet", row_group_size=7)
        return folder
    return save_to_disk(folder, [table])


def read(folder: Path, dataset: str, **columns: str) -> list[Item]:
    return SOURCES[dataset](Location.of(folder), Columns(**columns)).items  # type: ignore[call-arg]


@pytest.fixture(params=["parquet", "arrow"])
def dataset(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
@pytest.mark.parametrize("in_struct", [False, True])
def test_images_of_every_type_are_read(tmp_path: Path, dataset: str, kind: pa.DataType, in_struct: bool) -> None:
    values = [*IMAGES, None]
    column = pa.array(values, kind)
    if in_struct:
        rows = [{"bytes": value, "path": "a.jpg"} for value in values]
        column = pa.array([*rows, None], pa.struct([("bytes", kind), *STRUCT]))
        values = [*values, None]
    items = read(write(tmp_path, dataset, pa.table({"image": column})), dataset)
    assert [item.location.read_bytes() for item in items] == [value or b"" for value in values]
    assert all(item.location.size() > 0 for item in items[:3])


TEXTS = ["a", "b", "a"]
LISTS = [["a", "c"], [], ["b", None, "d"]]
KINDS = {
    "string": (pa.array(TEXTS), [("a",), ("b",), ("a",)]),
    "large": (pa.array(TEXTS, pa.large_string()), [("a",), ("b",), ("a",)]),
    "view": (pa.array(TEXTS, pa.string_view()), [("a",), ("b",), ("a",)]),
    "dictionary": (pa.array(TEXTS).dictionary_encode(), [("a",), ("b",), ("a",)]),
    "null": (pa.array(["a", None, ""]), [("a",), (), ("",)]),
    "list": (pa.array(LISTS), [("a", "c"), (), ("b", "d")]),
    "large list": (pa.array(LISTS, pa.large_list(pa.string_view())), [("a", "c"), (), ("b", "d")]),
    "list of large": (pa.array(LISTS, pa.list_(pa.large_string())), [("a", "c"), (), ("b", "d")]),
    "fixed list": (pa.array([["a", "c"]] * 3, pa.list_(pa.string(), 2)), [("a", "c")] * 3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_captions_of_every_type_are_all_read(tmp_path: Path, dataset: str, kind: str) -> None:
    column, expected = KINDS[kind]
    folder = write(tmp_path, dataset, pa.table({"image": IMAGES, "text": column}))
    assert [item.captions for item in read(folder, dataset)] == expected
    assert [item.captions for item in read(folder, dataset, caption="")] == [()] * 3


@pytest.mark.parametrize("name", ["image", "text", "label"])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, dataset: str, name: str) -> None:
    columns = {"image": pa.array(IMAGES), "text": pa.array(TEXTS), "label": pa.array([0, 1, 2])}
    table = pa.table([*columns.values(), columns[name]], names=[*columns, name])
    with pytest.raises(UsageError, match=f"has two columns '{name}'"):
        read(write(tmp_path, dataset, table), dataset)


@pytest.mark.parametrize("name", ["text", "caption", "captions"])
def test_captions_are_found_by_their_usual_names(tmp_path: Path, dataset: str, name: str) -> None:
    folder = write(tmp_path, dataset, pa.table({"image": IMAGES, name: TEXTS, "prompt": ["x"] * 3}))
    assert [item.captions for item in read(folder, dataset)] == [("a",), ("b",), ("a",)]
    assert [item.captions for item in read(folder, dataset, caption="prompt")] == [("x",)] * 3


def test_two_columns_that_may_hold_the_captions_are_refused(tmp_path: Path, dataset: str) -> None:
    folder = write(tmp_path, dataset, pa.table({"image": IMAGES, "text": TEXTS, "caption": ["x"] * 3}))
    with pytest.raises(UsageError, match="has the columns text and caption; say by --caption-column"):
        read(folder, dataset)
    assert [item.captions for item in read(folder, dataset, caption="caption")] == [("x",)] * 3


@pytest.mark.parametrize("name", ["text", "label"])
def test_text_that_is_no_utf8_is_refused_by_its_row(tmp_path: Path, dataset: str, name: str) -> None:
    """Arrow takes any bytes for text."""
    texts = pa.array([b"caf\xc3\xa9"] * 9 + [b"caf\xe9"] + [b"b"] * 10).cast(pa.string(), safe=False)
    folder = write(tmp_path, dataset, pa.table({"image": IMAGES[:1] * 20, name: texts}))
    with pytest.raises(UsageError, match=rf"a.*row 9: '{name}' is no UTF-8"):
        read(folder, dataset)


@pytest.mark.parametrize("column", [[1, 2, 3], [[1], [2], [3]], [b"a", b"b", b"c"], [{"a": "b"}] * 3])
def test_other_captions_are_refused(tmp_path: Path, dataset: str, column: list[object]) -> None:
    folder = write(tmp_path, dataset, pa.table({"image": IMAGES, "text": column}))
    with pytest.raises(UsageError, match="the column 'text' must hold captions"):
        read(folder, dataset)


@pytest.mark.parametrize("first", [True, False])
def test_a_column_may_be_called_like_a_part_of_another(tmp_path: Path, dataset: str, first: bool) -> None:
    """arrow-rs #8443: `image.bytes` is also what Parquet calls the bytes in `image`."""
    rows = pa.array([{"bytes": image, "path": None} for image in IMAGES], pa.struct([("bytes", pa.binary()), *STRUCT]))
    named = {"image.bytes": [b"other"] * 3, "text.raw": ["other"] * 3}
    columns = {**(named if first else {}), "image": rows, "text": TEXTS, **named}
    folder = write(tmp_path, dataset, pa.table(columns))
    items = read(folder, dataset)
    assert [item.location.read_bytes() for item in items] == IMAGES
    assert [item.captions for item in items] == [("a",), ("b",), ("a",)]
    others = read(folder, dataset, image="image.bytes", caption="text.raw")
    assert {(item.location.read_bytes(), item.captions) for item in others} == {(b"other", ("other",))}


@pytest.mark.parametrize("kind", [pa.null(), pa.list_(pa.null())], ids=str)
def test_a_column_of_nulls_alone_says_nothing(tmp_path: Path, dataset: str, kind: pa.DataType) -> None:
    """ray #49338: a split without labels or captions, whose file does not know their type."""
    nothing = pa.array([None] * 3, kind)
    columns = {"image": IMAGES, "text": nothing} | ({"label": nothing} if pa.types.is_null(kind) else {})
    assert [(item.captions, item.label) for item in read(write(tmp_path, dataset, pa.table(columns)), dataset)] == [
        ((), None)
    ] * 3


def test_splits_with_and_without_classes_are_read_together(tmp_path: Path) -> None:
    """With the table of names that one split has; beside it, numbers without a table are refused."""
    names = {"info": {"features": {"label": {"names": ["cat", "dog"]}}}}
    table = pa.table({"image": IMAGES, "label": [0, 1, 0]}).replace_schema_metadata({"huggingface": json.dumps(names)})
    for split, found in {"train": table, "test": pa.table({"image": IMAGES, "label": pa.nulls(3)})}.items():
        pq.write_table(found, tmp_path / f"{split}.parquet")
    listing = SOURCES["parquet"](Location.of(tmp_path))
    assert [item.label for item in listing.items] == [0, 1, 0, None, None, None]
    assert listing.classes == ("cat", "dog")
    pq.write_table(pa.table({"image": IMAGES, "label": [0, 1, 2]}), tmp_path / "test.parquet")
    with pytest.raises(UsageError, match="has another table of classes than"):
        SOURCES["parquet"](Location.of(tmp_path))


def test_rows_are_read_in_any_order(tmp_path: Path, dataset: str) -> None:
    """A cursor goes forwards, and begins again for a row that has passed, in this file or after another."""
    images = [odd_jpeg(number) for number in range(40)]
    folders = [
        write(tmp_path / name, dataset, pa.table({"image": images[::step]})) for name, step in (("a", 1), ("b", -1))
    ]
    one, other = ([item.location for item in read(folder, dataset)] for folder in folders)
    for row in (0, 39, 5, 5, 6, 38, 0, 17):
        assert one[row].read_bytes() == images[row]
        assert other[row].read_bytes() == images[39 - row]


def test_a_file_that_has_become_shorter_is_named(tmp_path: Path, dataset: str) -> None:
    items = read(write(tmp_path, dataset, pa.table({"image": IMAGES})), dataset)
    write(tmp_path, dataset, pa.table({"image": IMAGES[:1]}))
    for _ in range(2):
        with pytest.raises((OSError, pa.ArrowException)):
            items[1].location.read_bytes()
    write(tmp_path, dataset, pa.table({"image": IMAGES}))
    assert items[1].location.read_bytes() == IMAGES[1]


def test_all_captions_are_packed(tmp_path: Path, dataset: str) -> None:
    table = pa.table({"image": [odd_jpeg(n) for n in range(4)], "text": [["one", f"two {n}"] for n in range(4)]})
    pack(config(write(tmp_path / "source", dataset, table), tmp_path / "out", dataset=dataset))
    sides = packed(tmp_path / "out")
    found = {sample.captions for side in sides.values() for sample in side.values()}
    assert found == {("one", f"two {n}") for n in range(4)}


def test_a_large_row_group_is_not_held(tmp_path: Path) -> None:
    """Of one row group of 100 MB a buffer, a few pages and a batch are."""
    image = np.random.default_rng(0).bytes(250_000)
    kind = pa.struct([("bytes", pa.binary()), *STRUCT])
    rows = pa.array([{"bytes": image, "path": "a.jpg"}] * 400, kind)
    # A page, here of 4 rows, is the least that can be read.
    options = {"use_dictionary": False, "compression": "none", "write_batch_size": 4}
    pq.write_table(pa.table({"image": rows}), tmp_path / "a.parquet", **options)
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 1
    items = read(tmp_path, "parquet")
    before, held = pa.total_allocated_bytes(), []
    tracemalloc.start()
    for item in items:
        assert item.location.read_bytes() == image
        held.append(pa.total_allocated_bytes() - before)
    _, read_at_once = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 250_000 <= max(held) < 32_000_000
    assert read_at_once < 32_000_000
