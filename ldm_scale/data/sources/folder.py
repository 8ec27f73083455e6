"""An image folder, by the conventions of torchvision's and Hugging Face's ImageFolder."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from ldm_scale.data.classes import as_integer, imagenet_wnids
from ldm_scale.data.images import SIGNATURE, is_image
from ldm_scale.data.sources.items import Item, Listing, Stored, composed, key_of, list_files
from ldm_scale.data.sources.metadata import Rows, read_metadata
from ldm_scale.data.sources.order import splits_of
from ldm_scale.data.sources.text import read_text
from ldm_scale.data.split import split_by_prefix
from ldm_scale.files.storage import Location

NO_IMAGE = "no image by its bytes"
# What img2dataset writes beside each of its folders, which are parts of a download and no classes.
STATISTICS = "_stats.json"
# Files that count as images without a look: their bytes are looked at when they are packed.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp")


def _is_image(file: Location) -> bool:
    with file.open() as stream:
        return is_image(stream.read(SIGNATURE))


def _is_text(path: str) -> bool:
    return path.lower().endswith(".txt")


def _stem(path: str) -> str:
    return composed(path.rsplit(".", 1)[0])


def _images(listing: Listing, folder: Location, named: Rows) -> list[str]:
    """The paths of the images: those that metadata name, those of an image's suffix, and those that begin as one."""
    known = {path for path in listing.left if path in named or path.lower().endswith(SUFFIXES)}
    stems = {_stem(path) for path in known}
    for path in listing.left:
        beside = _is_text(path) and _stem(path) in stems
        if path not in known and not beside and _is_image(folder / path):
            known.add(path)
    return sorted(known)


def _texts(listing: Listing, images: list[str]) -> dict[str, Stored]:
    """The text beside each image that has one."""
    known = set(images)
    texts = {_stem(path): path for path in listing.left if _is_text(path) and path not in known}
    beside = {path: texts.get(_stem(path)) for path in images}
    used = {text: listing.use(text) for text in set(beside.values()) if text is not None}
    return {path: used[text] for path, text in beside.items() if text is not None}


def _are_sides(names: Iterable[str], below: Iterable[str]) -> bool:
    """Whether folders of one level are the sides of a split, not classes, of which one may be called `train`.

    They say two splits or more, and each says one, or there are folders below some that do.
    """
    said = {name: splits_of(name) for name in names}
    return len(set().union(*said.values())) > 1 and (all(said.values()) or any(said[name] for name in below))


def _tells_side(level: int, folders: list[list[str]], sides: list[bool | None]) -> bool:
    """Whether no folder of a level has images of both sides: then it says who is a member, and is no class."""
    ours, theirs = (
        {folder[level] for folder, side in zip(folders, sides, strict=True) if side is one and len(folder) > level}
        for one in (True, False)
    )
    return bool(ours and theirs) and ours.isdisjoint(theirs)


def _class_level(images: list[str], membership: Mapping[str, bool], parts: set[str]) -> int | None:
    """The level of the folders that are classes: the first that is no side of a split, nor one folder around all.

    None if all images lie in one folder: that is a class only if its name is a number or an id, which tells its index.
    membership: who is a member, by key, if keys say so. parts: folders that are parts of a download.
    """
    sides = [membership.get(key_of(path)) for path in images]
    folders = [path.split("/")[:-1] for path in images]
    for level in range(max(map(len, folders), default=0)):
        names = {folder[level] for folder in folders if len(folder) > level}
        below = {folder[level] for folder in folders if len(folder) > level + 1}
        is_around = len(names) == 1 and all(len(folder) > level for folder in folders) and not _tells_index(*names)
        is_part = all("/".join(folder[: level + 1]) in parts for folder in folders)
        if not (is_around or is_part or _are_sides(names, below) or _tells_side(level, folders, sides)):
            return level
    return None


def _tells_index(name: str) -> bool:
    return as_integer(name) is not None or name in imagenet_wnids()


def _items(listing: Listing, images: list[str], named: Rows, membership: Mapping[str, bool]) -> Iterator[Item]:
    texts = _texts(listing, images)
    parts = {path.removesuffix(STATISTICS) for path in listing.left if path.endswith(STATISTICS)}
    level = _class_level(images, membership, parts)
    for path in images:
        row = named.get(path)
        captions = row.captions if row is not None else ()
        if not captions and path in texts and (text := read_text(texts[path]).strip()):
            captions = (text,)
        label, folders = row.label if row is not None else None, path.split("/")[:-1]
        if label is None and level is not None and len(folders) > level:
            label = composed(folders[level])
        yield Item(key_of(path), listing.take(path), captions, label)


def read_folder(folder: Location, members: tuple[str, ...] = (), heldout: tuple[str, ...] = ()) -> Listing:
    """Every image below a folder; its bytes say whether a file is one.

    Captions come from metadata.csv, .jsonl or .parquet in any folder (`file_name` relative to it; all rows of a file,
    in order), or else from a .txt beside the image; labels from metadata, or else from the folders: the first level
    that is neither `train`, `test` and the like nor one folder around all, nor img2dataset's parts, nor tells the sides
    apart.

    members, heldout: how the keys of the two sides begin, if they are told apart so (see split_by_prefix).

    Raises:
        UsageError: Metadata cannot be read or name what is not there, a text is not UTF-8, or a side is empty.
    """
    listing = list_files(folder)
    named = read_metadata(listing, folder)
    images = _images(listing, folder, named)
    membership = split_by_prefix([*map(key_of, images)], members, heldout).membership() if images and heldout else {}
    listing.items = list(_items(listing, images, named, membership))
    listing.skip_rest(NO_IMAGE)
    return listing


def read_sides(members: Location, heldout: Location) -> Listing:
    """Two image folders as one: keys begin with members/ or heldout/; the first is listed first.

    If they have no class in common, which would tell the sides apart, there are none.
    """
    sides = {"members": read_folder(members), "heldout": read_folder(heldout)}
    first, second = ({item.label for item in found.items} for found in sides.values())
    alike = not first.isdisjoint(second)
    listing = Listing()
    for side, found in sides.items():
        listing.items += [
            replace(item, key=f"{side}/{item.key}", label=item.label if alike else None) for item in found.items
        ]
        listing.seen += found.seen
        listing.read += found.read
        for rule, (count, file) in found.skipped.items():
            before, named = listing.skipped.get(rule, (0, f"{side}/{file}"))
            listing.skipped[rule] = (before + count, named)
    return listing
