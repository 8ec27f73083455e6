"""Parquet files with embedded images, as the Hugging Face hub stores them (Pokemon with BLIP captions, say).

The column of images is a struct of bytes and path, or binary; one of strings, or of lists of them, gives the captions,
one of numbers or strings the classes. Keys are the path of the file and the number of the row; items come in the order
of files (see order.py) and rows.
"""

import io
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from ldm_scale.data.sources.columns import USUAL, Columns, EmbeddedImage, class_names, images_of, make_item, take_files
from ldm_scale.data.sources.items import UNUSED, Item, Listing, key_of, list_files
from ldm_scale.data.sources.order import order_files
from ldm_scale.errors import UsageError, one_line
from ldm_scale.files.storage import BUFFER, Location, batches_within

# Bytes of images that are held at a time, about. A row group has any size.
BATCH_BYTES = 4 << 20
# Rows of images that are read at a time, at most.
ROWS = 8192


def _open(stream: object) -> pq.ParquetFile:
    # Without a buffer, a column of a whole row group would be read at once.
    return pq.ParquetFile(stream, buffer_size=BUFFER, pre_buffer=False)


def _leaf(schema: pa.Schema, column: str) -> str:
    """What Parquet calls the column of the images' bytes."""
    return f"{column}.bytes" if pa.types.is_struct(schema.field(column).type) else column


def _length(group: pq.RowGroupMetaData, leaf: str) -> int:
    """Bytes of an image of a row group, on average."""
    chunks = (group.column(number) for number in range(group.num_columns))
    size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == leaf)
    return int(size // max(group.num_rows, 1))


def _read_group(file: Location, column: str, group: int) -> Iterator[pa.Array]:
    """The images of a row group."""
    with file.open() as stream:
        parquet = _open(stream)
        leaf = _leaf(parquet.schema_arrow, column)
        rows = max(1, BATCH_BYTES // max(1, _length(parquet.metadata.row_group(group), leaf)))
        for batch in parquet.iter_batches(min(rows, ROWS), row_groups=[group], columns=[leaf], use_threads=False):
            # A column may be called like a part of another: `image.bytes`.
            yield images_of(batch.column(column))


def _images(file: Location, column: str, parquet: pq.ParquetFile) -> Iterator[EmbeddedImage]:
    leaf, start = _leaf(parquet.schema_arrow, column), 0
    for number in range(parquet.num_row_groups):
        group = parquet.metadata.row_group(number)
        length = _length(group, leaf)
        for row in range(start, start + group.num_rows):
            yield EmbeddedImage(_read_group, file, column, number, start, row, length)
        start += group.num_rows


def _read_file(path: str, file: Location, columns: Columns) -> tuple[list[Item], tuple[str, ...] | None]:
    """The items of a file, and the names of their classes, if it has a table of them; None if it has no classes."""
    try:
        with file.open() as stream:
            size = stream.seek(0, io.SEEK_END)
            parquet = _open(stream)
            metadata = parquet.metadata
            rows = sum(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
            # Each is an item, and nothing in it need take any room.
            if not rows == metadata.num_rows <= size:
                raise UsageError(f"{file} says that it has {rows} rows in {size} bytes, which is no number of images")
            columns = columns.of(parquet.schema_arrow, file)
            images = list(_images(file, columns.image, parquet))
            said: list[tuple[tuple[str, ...], str | int | None]] = []
            for batch in batches_within(size, parquet, columns.beside, file):
                said.extend(columns.said(batch, file, len(said)))
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise UsageError(f"{file} is no Parquet file: {one_line(error)}") from None
    key = key_of(path)
    items = [make_item(key, image, row) for image, row in zip(images, said, strict=True)]
    return items, class_names(parquet.schema_arrow, columns.label)


def read_parquet(folder: Location, columns: Columns = USUAL, order: Sequence[str] = ()) -> Listing:
    """Every row of every .parquet file below the folder; images stay in their files until they are asked for.

    order: how files begin, if their names do not say their order.

    Raises:
        UsageError: A file cannot be used, or two have other tables of classes.
        ContentError: The captions and classes of a file are missing, or take more memory than its size explains.
    """
    listing = list_files(folder)
    paths = [path for path in listing.left if path.lower().endswith(".parquet")]
    if not paths:
        raise UsageError(f"{folder} holds no .parquet file")
    paths, listing.doubt = order_files(paths, order)
    take_files(listing, {path: _read_file(path, folder / path, columns) for path in paths})
    listing.skip_rest(UNUSED)
    return listing
