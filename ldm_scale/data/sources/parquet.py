"""Parquet files with embedded images, as the Hugging Face hub stores them (Pokemon with BLIP captions, say).

The column of images is a struct of bytes and path, or binary; a column of strings gives the captions. Keys are the path
of the file and the number of the row; items come in the order of files and rows.
"""

import functools
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


def _read_file(relative: str, file: Location, image: str, caption: str | None) -> Iterator[Item]:
    try:
        with file.open() as stream:
            parquet = pq.ParquetFile(stream)
            names = parquet.schema_arrow.names
            caption = CAPTION if caption is None and CAPTION in names else caption
            _check_columns(parquet.schema_arrow, file, image, caption)
            images = list(_images(file, image, parquet.metadata))
            captions = [None] * len(images) if caption is None else parquet.read([caption])[caption].to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise UsageError(f"{file} is no Parquet file: {one_line(error)}") from None
    for number, (stored, text) in enumerate(zip(images, captions, strict=True)):
        yield Item(f"{key_of(relative)}-{number:06d}", stored, () if text is None else (text,))


def read_parquet(folder: Location, image: str = IMAGE, caption: str | None = None) -> Listing:
    """Every row of every .parquet file below the folder; images stay in their files until they are asked for.

    image, caption: names of columns; captions are in `text`, if there is one, by default.
    """
    listing = list_files(folder)
    paths = [path for path in listing.left if path.endswith(".parquet")]
    if not paths:
        raise UsageError(f"{folder} holds no .parquet file")
    for path in paths:
        listing.use(path)
        listing.items += _read_file(path, folder / path, image, caption)
    listing.seen += len(listing.items)
    listing.skip_rest(UNUSED)
    return listing
