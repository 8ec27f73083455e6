"""An image folder, by the conventions of torchvision's and Hugging Face's ImageFolder."""

from collections.abc import Iterator

from ldm_scale.data.images import SIGNATURE, format_of
from ldm_scale.data.sources.items import Item, Listing, Stored, composed, key_of, list_files
from ldm_scale.data.sources.metadata import Rows, read_metadata
from ldm_scale.data.sources.order import SPLITS
from ldm_scale.data.sources.text import read_text
from ldm_scale.files.storage import Location

NO_IMAGE = "no image by its bytes"
# Files that count as images without a look: their bytes are looked at when they are packed.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp")


def _is_image(file: Location) -> bool:
    with file.open() as stream:
        return format_of(stream.read(SIGNATURE)) is not None


def _images(listing: Listing, folder: Location, named: Rows) -> list[str]:
    """The paths of the images: those that metadata name, those of an image's suffix, and those that begin as one."""
    known = {path for path in listing.left if path in named or path.lower().endswith(SUFFIXES)}
    stems = {composed(path.rsplit(".", 1)[0]) for path in known}
    for path in listing.left:
        beside = path.endswith(".txt") and composed(path.removesuffix(".txt")) in stems
        if path not in known and not beside and _is_image(folder / path):
            known.add(path)
    return sorted(known)


def _texts(listing: Listing, images: list[str]) -> dict[str, Stored]:
    """The text beside each image that has one."""
    known = set(images)
    texts = {composed(path): path for path in listing.left if path.endswith(".txt") and path not in known}
    beside = {path: texts.get(composed(path.rsplit(".", 1)[0]) + ".txt") for path in images}
    used = {text: listing.use(text) for text in set(beside.values()) if text is not None}
    return {path: used[text] for path, text in beside.items() if text is not None}


def _class_level(images: list[str]) -> int:
    """The level of the folders that are classes: the first, or the second if the first are the sides of a split."""
    first = {path.split("/")[0] for path in images if "/" in path}
    return 1 if first and first.issubset(SPLITS) else 0


def _class_of(path: str, level: int) -> str | None:
    folders = path.split("/")[:-1]
    return composed(folders[level]) if len(folders) > level else None


def _items(listing: Listing, images: list[str], named: Rows) -> Iterator[Item]:
    texts = _texts(listing, images)
    level = _class_level(images)
    for path in images:
        row = named.get(path)
        captions = row.captions if row is not None else ()
        if not captions and path in texts and (text := read_text(texts[path]).strip()):
            captions = (text,)
        label = row.label if row is not None else None
        yield Item(key_of(path), listing.take(path), captions, _class_of(path, level) if label is None else label)


def read_folder(folder: Location) -> Listing:
    """Every image below a folder; its bytes say whether a file is one.

    Captions come from metadata.csv, .jsonl or .parquet in any folder (`file_name` relative to it; all rows of a file,
    in order), or else from a .txt beside the image; labels from metadata, or else from the folders: the first level,
    or the second if the first are `train`, `test` and the like.

    Raises:
        UsageError: Metadata cannot be read or name what is not there, or a text is not UTF-8.
    """
    listing = list_files(folder)
    named = read_metadata(listing, folder)
    images = _images(listing, folder, named)
    listing.items = list(_items(listing, images, named))
    listing.skip_rest(NO_IMAGE)
    return listing
