"""metadata.csv, .jsonl and .parquet: what is known of a folder's images, as Hugging Face's ImageFolder reads it."""

import csv
import io
import json
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ldm_scale.data.sources.items import Listing, check_present, composed
from ldm_scale.data.sources.text import read_text
from ldm_scale.errors import UsageError, one_line
from ldm_scale.files.storage import Location, read_table

FILE_NAME = "file_name"
CAPTIONS = ("caption", "text")
LABEL = "label"
# A caption may be longer than csv's default; a shard's limit is checked where shards are read.
csv.field_size_limit(1 << 30)


@dataclass
class Known:
    """What metadata say of one image."""

    captions: tuple[str, ...] = ()
    label: str | int | None = None


# By path below the source's folder.
Rows = dict[str, Known]
# A row, with the words that name its place.
Row = tuple[str, dict[str, Any]]


def _csv_rows(file: Location) -> Iterator[Row]:
    # Strict: a quote that nothing closes would swallow all rows that follow.
    reader = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
    try:
        for row in reader:
            if None in row:
                raise UsageError(f"{file} line {reader.line_num}: more fields than the header; quote those with commas")
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise UsageError(f"{file} line {reader.reader.line_num}: {one_line(error)}") from None


def _json_rows(file: Location) -> Iterator[Row]:
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{file} line {number}: {one_line(error)}") from None
        if not isinstance(row, dict):
            raise UsageError(f"{file} line {number}: no JSON object")
        yield f"line {number}", row


def _parquet_rows(file: Location) -> Iterator[Row]:
    try:
        table = read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{file} is no Parquet file: {one_line(error)}") from None
    rows = table.select([name for name in (FILE_NAME, *CAPTIONS, LABEL) if name in table.column_names]).to_pylist()
    yield from ((f"row {number}", row) for number, row in enumerate(rows))


READERS: dict[str, Callable[[Location], Iterator[Row]]] = {
    "metadata.csv": _csv_rows,
    "metadata.jsonl": _json_rows,
    "metadata.parquet": _parquet_rows,
}


def _captions_of(row: dict[str, Any]) -> Iterator[str]:
    """The captions of a row: of the first column that has one, which may be a list of them."""
    for value in (row.get(name) for name in CAPTIONS):
        found = [str(text) for text in (value if isinstance(value, list) else [value]) if text is not None]
        if kept := [text for text in found if text.strip()]:
            yield from kept
            return


def _label_of(row: dict[str, Any]) -> str | int | None:
    label = row.get(LABEL)
    if label is None or not str(label).strip():
        return None
    return label if type(label) is int else str(label).strip()


def _read_file(path: str, file: Location) -> Iterator[tuple[str, str, Known]]:
    """Path of the image, place of the row, and what it says, for each row."""
    for place, row in READERS[path.rsplit("/", 1)[-1]](file):
        name = row.get(FILE_NAME)
        if not isinstance(name, str) or not name:
            raise UsageError(f"{file} {place}: needs a column {FILE_NAME} (and optionally caption or text, and label)")
        relative = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
        yield composed(relative), place, Known(tuple(_captions_of(row)), _label_of(row))


def _merge(found: Iterator[tuple[str, str, Known]], file: Location) -> Rows:
    """All captions of an image, in the order of rows, and its one label."""
    merged: Rows = {}
    for path, place, known in found:
        before = merged.setdefault(path, Known())
        if known.label is not None and before.label not in (None, known.label):
            raise UsageError(f"{file} {place}: a second label of {path!r}, {known.label!r} after {before.label!r}")
        before.captions += known.captions
        before.label = known.label if before.label is None else before.label
    return merged


def read_metadata(listing: Listing, folder: Location) -> Rows:
    """What the metadata of every folder say, by the path of the image; the nearest to an image count.

    Raises:
        UsageError: A file cannot be read, one folder has two, or an image is not there.
    """
    paths = sorted((path for path in listing.left if path.rsplit("/", 1)[-1] in READERS), key=lambda p: p.count("/"))
    folders: dict[str, str] = {}
    rows: Rows = {}
    for path in paths:
        if (other := folders.setdefault(posixpath.dirname(path), path)) != path:
            raise UsageError(f"{folder} has {other} and {path}; a folder needs one of them")
        listing.use(path)
        file = folder / path
        found = _merge(_read_file(path, file), file)
        images = {composed(path): path for path in listing.left}
        check_present(found, images, file, folder)
        rows |= {images[name]: known for name, known in found.items()}
    return rows
