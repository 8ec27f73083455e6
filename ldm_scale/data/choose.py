"""Which items of a source are packed, and on which side: split files, near-duplicates, bad images, random draws."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from PIL import Image

from ldm_scale.config.base import Record
from ldm_scale.config.data import IN_COLUMNS, IN_FILES, PackConfig
from ldm_scale.data.duplicates import Gallery, Look
from ldm_scale.data.images import PACKED, BadImage, on_white, open_image
from ldm_scale.data.samples import LIMITS, TOO_LONG, TOO_MUCH, encode_metadata
from ldm_scale.data.sources import UNORDERED, find_reader
from ldm_scale.data.sources.columns import Columns
from ldm_scale.data.sources.folder import read_sides
from ldm_scale.data.sources.items import Item, Listing
from ldm_scale.data.sources.remote import find_source
from ldm_scale.data.split import Split, check_keys, draw, random_halves, read_index_split, read_split, split_by_prefix
from ldm_scale.data.work import RunTasks
from ldm_scale.errors import RunError, UsageError, one_line
from ldm_scale.files.storage import Location

# Items that one task looks at.
LOOKED_AT = 512


class Reject(Record):
    """One image that is left out, and why."""

    key: str
    reason: str


class Removed(Record):
    """One near-duplicate, the image that is kept for it, and their correlation; None for variants of one picture."""

    key: str
    kept: str
    correlation: float | None


@dataclass(frozen=True)
class Sides:
    """Who is on which side, how that was chosen, and what was rejected and removed on the way."""

    split: Split
    how: str
    rejects: tuple[Reject, ...] = ()
    removed: tuple[Removed, ...] = ()


def read_source(config: PackConfig) -> Listing:
    """What the source holds.

    Raises:
        UsageError: The source cannot be used, is empty, or names two images alike.
    """
    reader = find_reader(config.dataset)
    source = find_source(config.source)
    other = None if config.heldout_folder is None else find_source(config.heldout_folder)
    options: dict[str, Any] = {"order": config.order} if config.dataset in IN_FILES else {}
    if config.dataset in IN_COLUMNS:
        options["columns"] = Columns(config.image_column, config.caption_column, config.label_column)
    if config.dataset == "folder" and other is None:
        options |= {"members": config.members, "heldout": config.heldout}
    listing = reader(source, **options) if other is None else read_sides(source, other)
    if not listing.items:
        raise UsageError(f"source folder {source} holds no images")
    _check_keys_differ(listing.items, source)
    listing.items = [replace(item, fault=item.fault or _excess(item)) for item in listing.items]
    return listing


def _excess(item: Item) -> str | None:
    """What of an item no reader of shards takes."""
    # A character has four bytes at most.
    if any(len(text) > LIMITS["txt"] // 4 and len(text.encode()) > LIMITS["txt"] for text in item.captions):
        return TOO_LONG
    return TOO_MUCH if len(encode_metadata(item.captions, item.metadata) or b"") > LIMITS["json"] else None


def _check_keys_differ(items: Sequence[Item], source: Location) -> None:
    found: dict[str, Item] = {}
    for item in items:
        if (other := found.setdefault(item.key, item)) is not item:
            raise UsageError(
                f"two images of {source} have the key {item.key!r}: {other.location} and {item.location}; rename one"
            )


def read_given_split(listing: Listing, config: PackConfig) -> Split | None:
    """The split that `config.split` names, if it does.

    Raises:
        UsageError: The file cannot be used or names what the source does not have.
    """
    if config.split is None:
        return None
    if config.split.endswith(".npz"):
        if config.dataset in UNORDERED:
            raise UsageError(
                f"{config.split} numbers images, but a {config.dataset} source has no fixed order; give keys as JSON"
            )
        if listing.doubt:
            raise UsageError(
                f"{config.split} numbers images, but the order of the files in {config.source} is not known: "
                f"{listing.doubt}; say it with --order (train,test, say, or each file's name)"
            )
        return read_index_split(Location.of(config.split), [item.key for item in listing.items])
    split = read_split(Location.of(config.split))
    check_keys(split, {item.key for item in listing.items}, f"source folder {config.source}")
    return split


def read_image(item: Item) -> bytes:
    """The encoded image of an item.

    Raises:
        BadImage: The source has none, or knows a fault of it.
        RunError: It cannot be read although it was listed.
    """
    if item.fault is not None:
        raise BadImage(item.fault)
    try:
        data = item.location.read_bytes()
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{item.location} was listed but cannot be read: {one_line(error)}") from error
    if not data:
        raise BadImage("no image")
    return data


def decode(item: Item, max_pixels: int) -> Image.Image:
    """The image of an item as RGB on white; raises BadImage and RunError as `open_image` and `read_image` do."""
    return on_white(open_image(read_image(item), max_pixels, PACKED))


def check_rejects(rejects: Sequence[Reject], looked_at: int, config: PackConfig) -> None:
    """Raise RunError, with the first reject, if there are more than `config.max_reject_fraction` allows."""
    if len(rejects) > config.max_reject_fraction * looked_at:
        raise RunError(
            f"{len(rejects)} of {looked_at} images are rejected, more than max_reject_fraction = "
            f"{config.max_reject_fraction}; the first is {rejects[0].key!r}: {rejects[0].reason}"
        )


def _look(items: Sequence[Item], max_pixels: int) -> list[Look | str]:
    """What to compare each item by, or the reason why it has none."""
    found: list[Look | str] = []
    for item in items:
        try:
            found.append(Look.at(decode(item, max_pixels)))
        except BadImage as error:
            found.append(str(error))
    return found


def _without_duplicates(
    items: list[Item], config: PackConfig, run: RunTasks
) -> tuple[list[Item], list[Reject], list[Removed]]:
    """The first item of each group of near-duplicates, the rejects, and the near-duplicates that are removed."""
    chunks = [items[start : start + LOOKED_AT] for start in range(0, len(items), LOOKED_AT)]
    gallery = Gallery(len(items))
    sound: list[Item] = []
    rejects: list[Reject] = []
    look = functools.partial(_look, max_pixels=config.max_pixels)
    for chunk, found in zip(chunks, run(look, chunks, f"thumbnails, {LOOKED_AT} images a task"), strict=True):
        for item, seen in zip(chunk, found, strict=True):
            if isinstance(seen, str):
                rejects.append(Reject(key=item.key, reason=seen))
            else:
                gallery.add(seen, item.variant)
                sound.append(item)
        check_rejects(rejects, len(items), config)
    removed = [
        Removed(key=sound[one.number].key, kept=sound[one.kept].key, correlation=one.correlation)
        for one in gallery.duplicates(config.near_duplicates, run)
    ]
    gone = {one.key for one in removed}
    return [item for item in sound if item.key not in gone], rejects, removed


def _by_prefix(keys: list[str], config: PackConfig) -> Split:
    split = split_by_prefix(keys, *config.prefixes)
    if config.max_samples is None:
        return split
    half = config.max_samples // 2
    return Split(draw(split.members, half, config.seed), draw(split.heldout, config.max_samples - half, config.seed))


def _all_members(keys: list[str], config: PackConfig) -> Split:
    if not keys:
        raise UsageError(f"{config.source}: no images are left after near-duplicates")
    return Split(draw(keys, config.max_samples or len(keys), config.seed), ())


def _at_random(keys: list[str], config: PackConfig) -> Split:
    drawn = keys if config.max_samples is None else draw(keys, config.max_samples, config.seed)
    if len(drawn) < 2:
        raise UsageError(f"{config.source}: {len(drawn)} images are left after near-duplicates; a split needs two")
    return random_halves(drawn, config.seed)


def _numbers(items: list[Item], given: Split, config: PackConfig) -> str:
    """How a split file's numbers were read, so that who knows the data can tell whether that is right."""
    places = {item.key: number for number, item in enumerate(items)}
    root = f"{Location.of(config.source)}/"

    def say(number: int) -> str:
        return f"image {number} is {items[number].key} ({str(items[number].location).removeprefix(root)})"

    first, other = (say(places[side[0]]) for side in (given.members, given.heldout))
    return f"a split file of numbers: {say(0)}; of the members the first {first}; of the held-out the first {other}"


def choose(items: list[Item], given: Split | None, config: PackConfig, run: RunTasks) -> Sides:
    """Who is a member: as a split file says, or by how keys begin, or all, or by random halves, of no near-duplicates.

    Near-duplicates are removed across the sides as well; the first in the source's order stays.

    Raises:
        UsageError: A side is empty.
        RunError: Too many images are bad or one cannot be read.
    """
    if given is not None:
        assert config.split is not None
        return Sides(given, _numbers(items, given, config) if config.split.endswith(".npz") else "a split file")
    how = f"{'all are members' if config.members_only else 'random halves'}, seed {config.seed}"
    _, heldout = config.prefixes
    if heldout:
        wanted = split_by_prefix([item.key for item in items], *config.prefixes).membership()
        items = [item for item in items if item.key in wanted]
        how = f"held-out begin with {' or '.join(heldout)}, seed {config.seed}"
    rejects: list[Reject] = []
    removed: list[Removed] = []
    if config.near_duplicates:
        items, rejects, removed = _without_duplicates(items, config, run)
        how += f", one of each group of near-duplicates (correlation {config.near_duplicates}; {len(removed)} removed)"
    choose_sides = _all_members if config.members_only else _by_prefix if heldout else _at_random
    split = choose_sides([item.key for item in items], config)
    return Sides(split, how, tuple(rejects), tuple(removed))
