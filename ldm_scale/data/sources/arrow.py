"""Data sets in Arrow files, as `save_to_disk` of Hugging Face's `datasets` writes them.

A folder with a state.json names its files, in their order; a folder of such folders holds a split in each. Columns are
as in Parquet. Keys are the path of the file and the number of the row; items come in the order of splits (see
order.py), files and rows.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ldm_scale.data.sources.columns import USUAL, Columns, EmbeddedImage, class_names, images_of, make_item, take_files
from ldm_scale.data.sources.items import UNUSED, Item, Listing, key_of, list_files
from ldm_scale.data.sources.order import order_files
from ldm_scale.data.sources.text import read_text
from ldm_scale.errors import UsageError, one_line, shaped
from ldm_scale.files.storage import Location

STATE = "state.json"
# What else belongs to such a folder, and to a folder of splits.
INFO, SPLITS = "dataset_info.json", "dataset_dict.json"
# How older versions call the files of row numbers that stand between a data set and its rows.
INDICES = ("_indices_data_files", "_indices_files")


@contextlib.contextmanager
def _open(file: Location) -> Iterator[tuple[pa.NativeFile, pa.RecordBatchStreamReader]]:
    """A file of record batches; a local one is mapped, so that only what is looked at is read."""
    with pa.memory_map(file.uri) if file.is_local else pa.PythonFile(file.open(), "r") as stream:
        yield stream, pa.ipc.open_stream(stream)


def _read_images(file: Location, column: str, part: int) -> Iterator[pa.Array]:
    """The images of a file, which is one part."""
    with _open(file) as (_, batches):
        for batch in batches:
            yield images_of(batch.column(column))


def _lengths(images: pa.Array) -> list[int]:
    if pa.types.is_binary_view(images.type):
        return [images.nbytes // max(1, len(images))] * len(images)
    return pc.fill_null(pc.binary_length(images), 0).to_pylist()


def _read_file(path: str, file: Location, columns: Columns) -> tuple[list[Item], tuple[str, ...] | None]:
    """The items of a file, and the names of their classes, if it has a table of them; None if it has no classes."""
    items: list[Item] = []
    key = key_of(path)
    try:
        with _open(file) as (stream, batches):
            columns = columns.of(batches.schema, file)
            for batch in batches:
                lengths = _lengths(images_of(batch.column(columns.image)))
                for length, said in zip(lengths, columns.said(batch, file, len(items)), strict=True):
                    image = EmbeddedImage(_read_images, file, columns.image, 0, 0, len(items), length)
                    items.append(make_item(key, image, said))
            _check_end(stream)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{file} is no complete Arrow file of save_to_disk: {one_line(error)}") from None
    return items, class_names(batches.schema, columns.label)


def _check_end(stream: pa.NativeFile) -> None:
    """Raise OSError if a stream that is read ends without an end mark, which pyarrow does not mind, or goes on."""
    end = stream.tell()
    stream.seek(end - 8)
    if stream.read() != b"\xff\xff\xff\xff\0\0\0\0":
        raise OSError("it does not end with one end mark")


def _data_files(listing: Listing, path: str) -> list[str]:
    """The names of the files that a state.json names, in its order."""
    file = listing.use(path)
    with shaped(f"{file} is no state of save_to_disk: it needs _data_files"):
        state = json.loads(read_text(file))
        names = [str(entry["filename"]) for entry in state["_data_files"]]
    if any(state.get(name) for name in INDICES):
        raise UsageError(f"{file} chooses rows by a file of numbers, which is not read; save flatten_indices() of it")
    return names


def _check_splits(listing: Listing, path: str) -> None:
    """Raise UsageError if one of the splits that a dataset_dict.json names is not there."""
    file = listing.use(path)
    with shaped(f"{file} is no list of the splits of save_to_disk"):
        names = [str(name) for name in json.loads(read_text(file))["splits"]]
    above = path.removesuffix(SPLITS)
    if absent := next((name for name in names if f"{above}{name}/{STATE}" not in listing.left), None):
        raise UsageError(f"{file} names the split {absent!r}, whose {STATE} is not there")


def read_arrow(folder: Location, columns: Columns = USUAL, order: Sequence[str] = ()) -> Listing:
    """Every row of a data set that was saved to disk; images stay in their files until they are asked for.

    order: how the folders of splits begin, if their names do not say their order.

    Raises:
        UsageError: A file cannot be used or is not there, or two have other tables of classes.
    """
    listing = list_files(folder)
    states = [path for path in listing.left if path.split("/")[-1] == STATE]
    if not states:
        raise UsageError(f"{folder} holds no {STATE}, which save_to_disk of a data set writes")
    for path in [path for path in listing.left if path.split("/")[-1] == SPLITS]:
        _check_splits(listing, path)
    folders, listing.doubt = order_files([path.removesuffix(STATE) for path in states], order)
    paths = [f"{part}{name}" for part in folders for name in _data_files(listing, f"{part}{STATE}")]
    if absent := next((path for path in paths if path not in listing.left), None):
        raise UsageError(f"{folder / absent} is named in {STATE} and is not there")
    for path in [path for path in listing.left if path.split("/")[-1] == INFO]:
        listing.use(path)
    take_files(listing, {path: _read_file(path, folder / path, columns) for path in paths})
    listing.skip_rest(UNUSED)
    return listing
