"""Parquet files that say what is not so, or hold in a few bytes what fills memory: one error, before it is followed."""

import io
import re
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldm_scale.data.choose import read_image
from ldm_scale.data.sources.parquet import read_parquet
from ldm_scale.errors import ContentError, RunError, UsageError
from ldm_scale.files.storage import Location, read_table

TEXT = "x" * (1 << 16)


def in_every_row(rows: int) -> pa.Table:
    """A text of 64 KiB in every row, which Parquet holds once."""
    return pa.table({"sample_id": pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([TEXT]))})


def with_rows(data: bytes, old: int, new: int) -> bytes:
    """A file whose metadata say that it has other rows: numbers of Thrift's compact protocol, of as many bytes."""

    def field(value: int) -> bytes:
        value, found = 2 * value, b"\x16"
        while value > 127:
            value, found = value >> 7, found + bytes([value & 127 | 128])
        return found + bytes([value])

    assert len(field(old)) == len(field(new))
    # In the file's metadata, in its row group's, and as the number of values.
    assert data.count(field(old)) >= 2
    return data.replace(field(old), field(new))


def encoded(table: pa.Table, **options: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def test_a_text_that_is_in_every_row_is_not_written_out(tmp_path: Path) -> None:
    data = encoded(in_every_row(100_000), store_schema=False, compression="zstd")
    assert len(data) < 1000
    (tmp_path / "a.parquet").write_bytes(data)
    before = pa.total_allocated_bytes()
    start = time.process_time()
    with pytest.raises(RunError, match=r"a\.parquet: 100000 rows that take more memory than the file's size explains"):
        read_table(Location.of(tmp_path / "a.parquet"))
    assert pa.total_allocated_bytes() - before < 1 << 20
    assert time.process_time() - start < 5
    (tmp_path / "few.parquet").write_bytes(encoded(in_every_row(100), store_schema=False))
    assert read_table(Location.of(tmp_path / "few.parquet"))["sample_id"].to_pylist() == [TEXT] * 100


def test_a_caption_that_is_in_every_row_is_not_written_out(tmp_path: Path) -> None:
    """For the rows to be fewer than the bytes, it has images as well."""
    table = in_every_row(20_000).rename_columns(["text"]).append_column("image", pa.array([b"image"] * 20_000))
    data = encoded(table, store_schema=False, use_dictionary=["text"], compression="none")
    (tmp_path / "a.parquet").write_bytes(data)
    before = pa.total_allocated_bytes()
    with pytest.raises(ContentError, match=r"a\.parquet: 20000 rows that take more memory than"):
        read_parquet(Location.of(tmp_path))
    assert pa.total_allocated_bytes() - before < 1 << 20


def test_rows_of_nothing_are_no_images(tmp_path: Path) -> None:
    rows = 2_000_000
    (tmp_path / "a.parquet").write_bytes(data := encoded(pa.table({"image": pa.nulls(rows, pa.binary())})))
    with pytest.raises(UsageError, match=rf"a\.parquet says that it has {rows} rows in {len(data)} bytes"):
        read_parquet(Location.of(tmp_path))


@pytest.mark.parametrize("columns", [["image"], ["image", "text"]])
def test_more_rows_than_there_are_is_an_error_by_name(tmp_path: Path, columns: list[str]) -> None:
    table = pa.table({"image": [b"image" * 20] * 20_000, "text": ["text"] * 20_000}).select(columns)
    data = encoded(table, compression="none", use_dictionary=False)
    (tmp_path / "a.parquet").write_bytes(with_rows(data, 20_000, 100_000))
    start = time.process_time()
    with pytest.raises(ContentError):
        read_table(Location.of(tmp_path / "a.parquet"))
    with pytest.raises((UsageError, RunError), match=r"a\.parquet"):
        read_image(read_parquet(Location.of(tmp_path)).items[-1])
    assert time.process_time() - start < 5


def test_columns_are_those_that_were_asked_for_in_that_order(tmp_path: Path) -> None:
    table = pa.table({"a": range(2000), "b": ["x"] * 2000}).replace_schema_metadata({"key": "value"})
    location = Location.of(tmp_path / "a.parquet")
    location.create(encoded(table))
    assert read_table(location).equals(table, check_metadata=True)
    lists = Location.of(tmp_path / "lists.parquet")
    lists.create(encoded(pa.table({"a": [[1.0]], "b": pa.array([[1]], pa.list_(pa.int8(), 1))})))
    assert read_table(lists).equals(pq.read_table(lists.uri), check_metadata=True)
    assert read_table(location, ["b", "a"]).equals(table.select(["b", "a"]))
    assert read_table(location, []).num_columns == 0
    with pytest.raises(ContentError, match="no column 'c'"):
        read_table(location, ["a", "c"])
    location.replace(encoded(pa.Table.from_arrays([pa.array([1])] * 2, ["a", "a"])))
    with pytest.raises(ContentError, match="no column 'a', or several"):
        read_table(location, ["a"])
    location.replace(encoded(table.slice(0, 0)))
    assert read_table(location).equals(table.slice(0, 0))


def test_damaged_files_are_errors_of_one_kind(tmp_path: Path) -> None:
    data = encoded(pa.table({"sample_id": [f"m/{number}" for number in range(50)], "x": range(50)}))
    rng = np.random.default_rng(0)
    location = Location.of(tmp_path / "a.parquet")
    errors = 0
    for _ in range(300):
        damaged = bytearray(data)
        # The metadata lie at the end.
        for place in rng.integers(len(data) // 4, len(data), rng.integers(1, 6)):
            damaged[place] = rng.integers(256)
        Path(location.uri).write_bytes(damaged)
        try:
            read_table(location)
        except ContentError:
            errors += 1
    assert errors > 100


def test_metadata_of_other_programs_are_as_deep_as_they_like(tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    table = pa.table({"image": [b"image"], "label": [0]}).replace_schema_metadata({"huggingface": deep})
    pq.write_table(table, tmp_path / "a.parquet")
    listing = read_parquet(Location.of(tmp_path))
    assert (len(listing.items), listing.classes) == (1, ())
    assert re.search("huggingface", str(pq.read_schema(tmp_path / "a.parquet").metadata))
