"""metadata.csv, .jsonl and .parquet: what is known of a folder's images, as Hugging Face's ImageFolder reads it."""

import csv
import io
import json
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ldm_scale.data.sources.items import Listing, check_present, composed
from ldm_scale.data.sources.text import read_text
from ldm_scale.errors import ContentError, UsageError, one_line
from ldm_scale.files.storage import Location, read_table

FILE_NAME = "file_name"
CAPTIONS = ("caption", "text", "captions")
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
        names = [name.strip() for name in reader.fieldnames or ()]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UsageError(f"{file} has two columns {twice!r}")
        reader.fieldnames = names
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
    except ContentError as error:
        raise UsageError(str(error)) from None
    # Other columns may hold images; their names are enough.
    read = [name for name in (FILE_NAME, *CAPTIONS, LABEL) if name in table.column_names]
    others = dict.fromkeys(name for name in table.column_names if name not in read)
    try:
        rows = [{**row, **others} for row in table.select(read).to_pylist()]
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} holds text that is no UTF-8: {one_line(error)}") from None
    yield from ((f"row {number}", row) for number, row in enumerate(rows))


READERS: dict[str, Callable[[Location], Iterator[Row]]] = {
    "metadata.csv": _csv_rows,
    "metadata.jsonl": _json_rows,
    "metadata.parquet": _parquet_rows,
}


def _is_said(value: Any) -> bool:
    """Whether a cell says anything: pandas writes NaN in those that do not."""
    return value is not None and value == value and bool(str(value).strip())


def _as_text(value: Any, name: str, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{place}: {name} must hold texts or numbers")
    return str(value)


def _captions_of(row: dict[str, Any], place: str) -> tuple[str, ...]:
    """The captions of a row: of the first column that has one, which may be a list of them."""
    for name in CAPTIONS:
        value = row.get(name)
        said = filter(_is_said, value if isinstance(value, list) else [value])
        if found := tuple(_as_text(text, name, place) for text in said):
            return found
    return ()


def _label_of(row: dict[str, Any], place: str) -> str | int | None:
    label = row.get(LABEL)
    if not _is_said(label):
        return None
    return label if type(label) is int else _as_text(label, LABEL, place).strip()


def _read_file(path: str, file: Location) -> Iterator[tuple[str, str, Known]]:
    """Path of the image, place of the row, and what it says, for each row.

    Raises:
        UsageError: A row names no file, or a cell holds no text, or no column is one that is read but some are there.
    """
    columns: set[str] = set()
    for at, row in READERS[path.rsplit("/", 1)[-1]](file):
        columns.update(row)
        name, place = row.get(FILE_NAME), f"{file} {at}"
        if not isinstance(name, str) or not name:
            raise UsageError(f"{place}: needs a column {FILE_NAME} (and optionally {', '.join(CAPTIONS)} or {LABEL})")
        relative = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
        yield composed(relative), place, Known(_captions_of(row, place), _label_of(row, place))
    columns.discard(FILE_NAME)
    if columns and columns.isdisjoint((*CAPTIONS, LABEL)):
        raise UsageError(
            f"{file} has the columns {', '.join(sorted(columns))}; captions are read from {' or '.join(CAPTIONS)}, "
            f"classes from {LABEL}: rename the one that is meant, or leave them out"
        )


def _merge(found: Iterator[tuple[str, str, Known]]) -> Rows:
    """All captions of an image, in the order of rows, and its one label."""
    merged: Rows = {}
    for path, place, known in found:
        before = merged.setdefault(path, Known())
        if known.label is not None and before.label not in (None, known.label):
            raise UsageError(f"{place}: a second label of {path!r}, {known.label!r} after {before.label!r}")
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
        found = _merge(_read_file(path, file))
        images = {composed(path): path for path in listing.left}
        check_present(found, images, file, folder)
        rows |= {images[name]: known for name, known in found.items()}
    return rows
