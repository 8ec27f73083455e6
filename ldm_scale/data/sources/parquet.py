"""Parquet files with embedded images, as the Hugging Face hub stores them (Pokemon with BLIP captions, say).

The column `image` is a struct of bytes and path, or binary; `text`, where there is one, is the caption. Keys are the
path of the file and the number of the row; items come in the order of files and rows.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from ldm_scale.data.sources.items import Item, key_of
from ldm_scale.errors import UsageError, one_line
from ldm_scale.storage import Location, sub_locations

IMAGE = "image"
CAPTION = "text"
# How encoded images begin.
_SIGNATURES = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp"}


@functools.lru_cache(maxsize=1)
def _row_group(file: Location, group: int) -> list[bytes | None]:
    """The images of one row group; rows are asked for in order, so one group is kept."""
    with file.open() as stream:
        column = pq.ParquetFile(stream).read_row_group(group, columns=[IMAGE]).column(IMAGE)
    values = column.to_pylist()
    return [value["bytes"] for value in values] if pa.types.is_struct(column.type) else values


@dataclass(frozen=True)
class EmbeddedImage:
    """One image of a Parquet file, by row group and place in it."""

    file: Location
    group: int
    row: int

    def __str__(self) -> str:
        return f"{self.file} row group {self.group} row {self.row}"

    @property
    def name(self) -> str:
        data = self.read_bytes()
        # Other bytes are no image under any suffix, and are rejected where images are decoded.
        suffix = next((name for start, name in _SIGNATURES.items() if data.startswith(start)), "jpg")
        return f"{self.row}.{suffix}"

    def read_bytes(self) -> bytes:
        return _row_group(self.file, self.group)[self.row] or b""


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _check_columns(schema: pa.Schema, file: Location) -> None:
    kind = schema.field(IMAGE).type if IMAGE in schema.names else None
    if kind is not None and pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if kind is None or not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise UsageError(f"{file} needs a column {IMAGE!r}, binary or a struct with bytes; it has {schema.names}")
    if CAPTION in schema.names and not _is_text(schema.field(CAPTION).type):
        raise UsageError(f"{file}: the column {CAPTION!r} must hold one caption a row, as a string")


def _read_file(relative: str, file: Location) -> Iterator[Item]:
    try:
        with file.open() as stream:
            parquet = pq.ParquetFile(stream)
            _check_columns(parquet.schema_arrow, file)
            sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
            rows = parquet.metadata.num_rows
            known = CAPTION in parquet.schema_arrow.names
            captions = parquet.read([CAPTION]).column(CAPTION).to_pylist() if known else [None] * rows
    except (OSError, pa.ArrowInvalid) as error:
        raise UsageError(f"{file} is no Parquet file: {one_line(error)}") from None
    places = [(group, row) for group, size in enumerate(sizes) for row in range(size)]
    for number, ((group, row), caption) in enumerate(zip(places, captions, strict=True)):
        yield Item(f"{key_of(relative)}-{number:06d}", EmbeddedImage(file, group, row), caption)


def read_parquet(folder: Location) -> list[Item]:
    """Every row of every .parquet file below the folder; images stay in their files until they are asked for."""
    files = list(sub_locations(folder, ".parquet"))
    if not files:
        raise UsageError(f"{folder} holds no .parquet file")
    return [item for relative, file in files for item in _read_file(relative, file)]
