"""Columns of images, captions and classes, as Parquet and Arrow files hold them."""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ldm_scale.data.sources.items import Item, Listing
from ldm_scale.errors import UsageError, one_line
from ldm_scale.files.storage import Location

# What columns of captions and of classes are called.
CAPTIONS = ("text", "caption", "captions")
LABELS = ("label",)
# Arrow's layouts of encoded images, of texts and of lists.
BYTES = (pa.binary(), pa.large_binary(), pa.binary_view())
TEXTS = (pa.string(), pa.large_string(), pa.string_view())
LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType, pa.ListViewType, pa.LargeListViewType)
# A file, a column and a part of the file, by number -> the part's images, in arrays of few bytes.
ReadBatches = Callable[[Location, str, int], Iterator[pa.Array]]


class _Cursor:
    """A part of a file that is read forwards; asked for a row that has passed, it begins again."""

    def __init__(self, begin: Callable[[], Iterator[pa.Array]]) -> None:
        self._begin = begin
        self._rewind()

    def _rewind(self) -> None:
        self._arrays, self._first, self._held = self._begin(), 0, pa.nulls(0)

    def read(self, row: int) -> bytes:
        if row < self._first:
            self._rewind()
        while row >= self._first + len(self._held):
            self._first += len(self._held)
            # Not two at a time.
            self._held = pa.nulls(0)
            try:
                self._held = next(self._arrays)
            except StopIteration:
                self._rewind()
                raise OSError("it has fewer rows than when it was listed") from None
            except (OSError, pa.ArrowException):
                self._rewind()
                raise
        return self._held[row - self._first].as_py() or b""


@functools.lru_cache(maxsize=1)
def _cursor(read: ReadBatches, file: Location, column: str, part: int) -> _Cursor:
    """Rows are asked for in order, so one part is open."""
    return _Cursor(functools.partial(read, file, column, part))


@dataclass(frozen=True, slots=True)
class EmbeddedImage:
    """One image of a column: its row in the file, and the part, which begins at row `start`, that `read` finds it in.

    length: about how many bytes it has.
    """

    read: ReadBatches
    file: Location
    column: str
    part: int
    start: int
    row: int
    length: int

    def __str__(self) -> str:
        return f"{self.file} row {self.row}"

    @property
    def name(self) -> str:
        return str(self.row)

    def size(self) -> int:
        return self.length

    def read_bytes(self) -> bytes:
        return _cursor(self.read, self.file, self.column, self.part).read(self.row - self.start)


def images_of(column: pa.Array) -> pa.Array:
    """The encoded images of a column that `Columns.of` has seen: values of an extension type may be pickles."""
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def _in_lists(kind: pa.DataType) -> pa.DataType:
    """The type of the values in lists of this type; of another type, itself."""
    return kind.value_type if isinstance(kind, LISTS) else kind


def _in_dictionary(kind: pa.DataType) -> pa.DataType:
    """The type of the values in a dictionary of this type; of another type, itself."""
    return kind.value_type if isinstance(kind, pa.DictionaryType) else kind


def class_names(schema: pa.Schema, column: str | None) -> tuple[str, ...] | None:
    """The table of names that Hugging Face's metadata hold for a column of class numbers, if they do.

    None if there is no such column.
    """
    if column is None:
        return None
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[column]["names"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()


def _usual(usual: Sequence[str], names: Sequence[str], file: Location) -> str | None:
    """The one of the usual names that is there, if one is."""
    found = [name for name in usual if name in names]
    if len(found) > 1:
        raise UsageError(
            f"{file} has the columns {' and '.join(found)}; say by --caption-column which holds the captions"
        )
    return next(iter(found), None)


def _values(column: pa.Array, name: str, file: Location, first: int) -> list[Any]:
    """The values of a column, whose first is in row `first`; Arrow does not look whether its texts are any."""
    values: list[Any] = []
    for value in column:
        try:
            values.append(value.as_py())
        except UnicodeDecodeError as error:
            raise UsageError(f"{file} row {first + len(values)}: {name!r} is no UTF-8: {one_line(error)}") from None
    return values


@dataclass(frozen=True)
class Columns:
    """The names of a file's columns of images, captions and classes; None if it has none of these."""

    image: str = "image"
    caption: str | None = None
    label: str | None = None

    def of(self, schema: pa.Schema, file: Location) -> "Columns":
        """The columns of one file: captions are in `text`, `caption` or `captions` and classes in `label`, if any are.

        An empty name is none, and so is a column of nulls alone.

        Raises:
            UsageError: A column is missing or of another type, or several may hold the captions.
        """
        names = schema.names
        kinds = dict(zip(names, schema.types, strict=True))
        caption, label = (
            _usual(usual, names, file) if name is None else (name or None)
            for name, usual in ((self.caption, CAPTIONS), (self.label, LABELS))
        )
        # Of a column that holds nothing in any row, the file does not know the type.
        caption, label = (
            None if name in kinds and _in_lists(kinds[name]) == pa.null() else name for name in (caption, label)
        )
        if twice := next((name for name in (self.image, caption, label) if names.count(name) > 1), None):
            raise UsageError(f"{file} has two columns {twice!r}; which one is meant, nothing tells")
        image = kinds.get(self.image, pa.null())
        if pa.types.is_struct(image) and image.get_field_index("bytes") >= 0:
            image = image.field("bytes").type
        if image not in BYTES:
            raise UsageError(
                f"{file} needs a column {self.image!r}, binary or a struct with bytes; it has {names}; --image-column "
                "names another"
            )
        if caption is not None and _in_dictionary(_in_lists(kinds.get(caption, pa.null()))) not in TEXTS:
            raise UsageError(f"{file}: the column {caption!r} must hold captions, a string or a list of them a row")
        kind = _in_dictionary(kinds.get(label, pa.null()))
        if label is not None and kind not in TEXTS and not pa.types.is_integer(kind):
            raise UsageError(
                f"{file}: the column {label!r} must hold one class a row, a number or a name; --label-column names "
                "another, or none: ''"
            )
        return Columns(self.image, caption, label)

    @property
    def beside(self) -> list[str]:
        """The columns that are read at once."""
        return [name for name in (self.caption, self.label) if name is not None]

    def said(
        self, batch: pa.RecordBatch, file: Location, first: int
    ) -> Iterator[tuple[tuple[str, ...], str | int | None]]:
        """The captions and the class of each row of a file from `first` on; -1 is Hugging Face's number of no class.

        Raises:
            UsageError: A text is not UTF-8.
        """
        captions, labels = (
            _values(batch.column(name), name, file, first) if name else [None] * len(batch)
            for name in (self.caption, self.label)
        )
        for value, label in zip(captions, labels, strict=True):
            texts = value if isinstance(value, list) else [value]
            yield tuple(text for text in texts if text is not None), None if label == -1 else label


# As the hub names them.
USUAL = Columns()


def make_item(key: str, image: EmbeddedImage, said: tuple[tuple[str, ...], str | int | None]) -> Item:
    """The item of a row; `key` is that of the file."""
    captions, label = said
    return Item(f"{key}-{image.row:06d}", image, captions, label)


def take_files(listing: Listing, files: dict[str, tuple[list[Item], tuple[str, ...] | None]]) -> None:
    """Add files, in their order, with the items of each and the names of their classes, to what a source holds.

    The names are None if a file has no classes.

    Raises:
        UsageError: Two files have other tables of classes.
    """
    tables = {path: names for path, (_, names) in files.items() if names is not None}
    first = next(iter(tables), None)
    for path, (items, _) in files.items():
        if first is not None and tables.get(path, tables[first]) != tables[first]:
            raise UsageError(f"{listing.left[path]} has another table of classes than {first}")
        listing.use(path)
        listing.items += items
        listing.seen += len(items)
    listing.classes = () if first is None else tables[first]
