"""WebDataset shards that somebody else wrote, img2dataset say: `.tar` files with an image a key, `txt`, `cls`, `json`.

Keys are `<shard>/<key>`, for only within a shard they are sure to differ; items come in the order of shards (see
order.py) and places in them.
"""

from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from ldm_scale.data.manifest import MANIFEST, Manifest
from ldm_scale.data.samples import DOTTED, IMAGE_SUFFIXES, LIMITS, TOO_LONG, as_label, as_said, is_dotted, split_name
from ldm_scale.data.sources.items import UNUSED, Item, Listing, Stored, key_of, list_files
from ldm_scale.data.sources.order import order_files
from ldm_scale.data.sources.tars import TarredFile, tarred_files
from ldm_scale.data.sources.text import BadText, decode_text
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location

NAMELESS = "an entry without key or suffix"
LINK = "one of its files is a link, a device or a sparse file"
SEVERAL = "more than one image"
# The most bytes of the files beside an image; longer ones are not read, here as in the readers of shards.
SMALL = {suffix: LIMITS[suffix] for suffix in ("txt", "cls", "json")}


def _by_key(listing: Listing, shard: str, entries: list[TarredFile]) -> dict[str, dict[str, str]]:
    """Each key's files by suffix, as WebDataset splits names: at the first dot of the last part."""
    samples: dict[str, dict[str, str]] = {}
    for entry in entries:
        path = f"{shard}/{entry.name}"
        listing.see(path, entry)
        key, suffix = split_name(entry.name)
        if path not in listing.left:
            continue
        if not key or not suffix:
            listing.skip(NAMELESS, path)
            continue
        files = samples.setdefault(key.removeprefix("./"), {})
        if suffix.lower() in files:
            raise UsageError(f"{entry.tar} holds {entry.name} twice")
        files[suffix.lower()] = path
    return samples


def _item(key: str, image: Stored, small: dict[str, bytes | None], fault: str | None) -> Item:
    """A sample; it is rejected if what is beside its image cannot be read, for it would lose that in silence."""
    caption, text, label = None, small.get("txt"), as_label(small.get("cls"))
    if "txt" in small and text is None:
        fault = fault or TOO_LONG
    try:
        caption = None if text is None else decode_text(text)
    except BadText as error:
        fault = fault or f"its caption: {error}"
    if "cls" in small and label is None:
        fault = fault or "its class is no number"
    said = as_said(caption, small)
    return Item(key, image, said.captions, label, metadata=said.metadata, fault=fault or said.flaw)


def _read_small(listing: Listing, files: dict[str, str]) -> dict[str, bytes | None]:
    """What is beside an image, by suffix; None for files that are too long."""
    stored = {suffix: listing.use(path) for suffix, path in files.items() if suffix in SMALL}
    return {suffix: file.read_bytes() if file.size() <= SMALL[suffix] else None for suffix, file in stored.items()}


def _read_shard(listing: Listing, shard: str, tar: Location) -> Iterator[Item]:
    entries = tarred_files(tar, keep=SMALL)
    if not entries:
        raise UsageError(f"{tar} holds no samples; remove it, or fetch it again if it should")
    odd = {f"{shard}/{entry.name}" for entry in entries if not entry.is_plain}
    for key, files in _by_key(listing, shard, entries).items():
        images = [files[suffix] for suffix in IMAGE_SUFFIXES if suffix in files]
        # A download that failed has no image: it is seen, and rejected when it is read.
        listing.seen += not images
        image = listing.take(images[0]) if images else TarredFile(tar, key, 0, 0)
        fault = LINK if odd.intersection(files.values()) else SEVERAL if len(images) > 1 else None
        fault = fault or (DOTTED if not images and any(map(is_dotted, files)) else None)
        yield _item(f"{key_of(shard)}/{key}", image, _read_small(listing, files), fault)


def _class_names(listing: Listing) -> tuple[str, ...]:
    """The table of classes in the manifest, if there is one of ours."""
    if MANIFEST not in listing.left:
        return ()
    try:
        names = Manifest.model_validate_json(listing.left[MANIFEST].read_bytes()).classes
    except ValidationError:
        return ()
    listing.use(MANIFEST)
    return names


def read_webdataset(folder: Location, order: Sequence[str] = ()) -> Listing:
    """Every sample of every .tar file below the folder; what lies beside them (statistics, Parquet) is skipped.

    order: how files begin, if their names do not say their order.

    Raises:
        UsageError: There is no shard, or one is incomplete or names a file twice.
    """
    listing = list_files(folder)
    paths = [path for path in listing.left if path.lower().endswith(".tar")]
    if not paths:
        raise UsageError(f"{folder} holds no .tar shards")
    paths, listing.doubt = order_files(paths, order)
    listing.classes = _class_names(listing)
    for path in paths:
        listing.use(path)
        listing.items += _read_shard(listing, path, folder / path)
    listing.skip_rest(UNUSED)
    return listing
