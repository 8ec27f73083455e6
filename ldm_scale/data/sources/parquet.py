"""Parquet files with embedded images, as the Hugging Face hub stores them (Pokemon with BLIP captions, say).

The column of images is a struct of bytes and path, or binary; a column of strings gives the captions, one of
numbers or strings the classes. Keys are the path of the file and the number of the row; items come in the order of
files and rows.
"""

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ldm_scale.data.sources.items import UNUSED, Item, Listing, key_of, list_files
from ldm_scale.errors import UsageError, one_line
from ldm_scale.files.storage import Location

IMAGE = "image"
CAPTION = "text"
LABEL = "label"
# How encoded images begin.
_SIGNATURES = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp"}


@functools.lru_cache(maxsize=1)
def _row_group(file: Location, group: int, name: str) -> list[bytes | None]:
    """The images of one row group; rows are asked for in order, so one group is kept."""
    with file.open() as stream:
        column = pq.ParquetFile(stream).read_row_group(group, columns=[name]).column(name)
    # Only what _check_columns has seen is looked at: values of an extension type beside it may be pickles.
    images = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
    return images.to_pylist()


@dataclass(frozen=True, slots=True)
class EmbeddedImage:
    """One image of a Parquet file, by row group and place in it; `share` is its part of the group's bytes."""

    file: Location
    column: str
    group: int
    row: int
    share: int

    def __str__(self) -> str:
        return f"{self.file} row group {self.group} row {self.row}"

    @property
    def name(self) -> str:
        data = self.read_bytes()
        # Other bytes are no image under any suffix, and are rejected when images are decoded.
        suffix = next((name for start, name in _SIGNATURES.items() if data.startswith(start)), "jpg")
        return f"{self.row}.{suffix}"

    def size(self) -> int:
        return self.share

    def read_bytes(self) -> bytes:
        return _row_group(self.file, self.group, self.column)[self.row] or b""


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _check_columns(schema: pa.Schema, file: Location, image: str, caption: str | None) -> None:
    kind = schema.field(image).type if image in schema.names else None
    if kind is not None and pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if kind is None or not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise UsageError(f"{file} needs a column {image!r}, binary or a struct with bytes; it has {schema.names}")
    if caption is not None and (caption not in schema.names or not _is_text(schema.field(caption).type)):
        raise UsageError(f"{file}: the column {caption!r} must hold one caption a row, as a string")


def _images(file: Location, column: str, metadata: pq.FileMetaData) -> Iterator[EmbeddedImage]:
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        share = metadata.row_group(group).total_byte_size // max(rows, 1)
        yield from (EmbeddedImage(file, column, group, row, share) for row in range(rows))


def class_names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """The table of names that Hugging Face's metadata hold for a column of class numbers, if they do."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[column]["names"]))
    except (ValueError, KeyError, TypeError):
        return ()


def _read_labels(parquet: pq.ParquetFile, file: Location, label: str | None) -> list[str | int | None]:
    """The class of each row, as a number or a name; -1 is Hugging Face's number of no class."""
    schema = parquet.schema_arrow
    column = LABEL if label is None else label
    if not column or (label is None and LABEL not in schema.names):
        return [None] * parquet.metadata.num_rows
    kind = schema.field(column).type if column in schema.names else None
    kind = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    if kind is None or not (pa.types.is_integer(kind) or _is_text(kind)):
        raise UsageError(
            f"{file}: the column {column!r} must hold one class a row, a number or a name; --label-column names "
            "another, or none: ''"
        )
    labels = parquet.read([column])[column].to_pylist()
    return [None if value == -1 and pa.types.is_integer(kind) else value for value in labels]


def _read_file(
    relative: str, file: Location, image: str, caption: str | None, label: str | None
) -> tuple[list[Item], tuple[str, ...]]:
    """The items of a file, and the names of their classes if it has a table of them."""
    try:
        with file.open() as stream:
            parquet = pq.ParquetFile(stream)
            names = parquet.schema_arrow.names
            caption = CAPTION if caption is None and CAPTION in names else caption
            _check_columns(parquet.schema_arrow, file, image, caption)
            images = list(_images(file, image, parquet.metadata))
            captions = [None] * len(images) if caption is None else parquet.read([caption])[caption].to_pylist()
            labels = _read_labels(parquet, file, label)
            table = class_names(parquet.schema_arrow, LABEL if label is None else label)
    except (OSError, pa.ArrowInvalid) as error:
        raise UsageError(f"{file} is no Parquet file: {one_line(error)}") from None
    rows = enumerate(zip(images, captions, labels, strict=True))
    return [
        Item(f"{key_of(relative)}-{number:06d}", stored, () if text is None else (text,), number_or_name)
        for number, (stored, text, number_or_name) in rows
    ], table


def read_parquet(folder: Location, image: str = IMAGE, caption: str | None = None, label: str | None = None) -> Listing:
    """Every row of every .parquet file below the folder; images stay in their files until they are asked for.

    image, caption, label: names of columns; by default captions are in `text` and classes in `label`, if these are
    there, and an empty name is none.

    Raises:
        UsageError: A file cannot be used, or two have other tables of classes.
    """
    listing = list_files(folder)
    paths = [path for path in listing.left if path.endswith(".parquet")]
    if not paths:
        raise UsageError(f"{folder} holds no .parquet file")
    tables = {}
    for path in paths:
        listing.use(path)
        items, tables[path] = _read_file(path, folder / path, image, caption, label)
        listing.items += items
    listing.classes = tables[paths[0]]
    if other := next((path for path in paths if tables[path] != listing.classes), None):
        raise UsageError(f"{folder / other} has another table of classes than {paths[0]}")
    listing.seen += len(listing.items)
    listing.skip_rest(UNUSED)
    return listing
