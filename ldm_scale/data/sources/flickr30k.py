"""Flickr30k: images with `results_20130124.token`, `dataset_flickr30k.json` (Karpathy) or `results.csv` (Kaggle).

Keys are the file names without suffix; items come by file name, as torchvision orders them.
"""

import json
from collections.abc import Callable, Iterator

from ldm_scale.data.sources.items import UNLISTED, Item, Listing, Stored, composed, find_by_name, key_of, list_files
from ldm_scale.data.sources.text import read_text
from ldm_scale.errors import UsageError, shaped
from ldm_scale.files.storage import Location


def _read_token(text: str) -> Iterator[tuple[str, str]]:
    """Lines `1000092795.jpg#0<TAB>caption`."""
    rows = (line.split("\t", 1) for line in text.split("\n") if line.strip())
    return ((name.rsplit("#", 1)[0], caption) for name, caption in rows)


def _read_json(text: str) -> Iterator[tuple[str, str]]:
    """Karpathy's list of images, each with its sentences."""
    images = json.loads(text)["images"]
    return ((image["filename"], sentence["raw"]) for image in images for sentence in image["sentences"])


def _read_csv(text: str) -> Iterator[tuple[str, str]]:
    """Lines `1000092795.jpg| 0| caption` below a header; one line of the published file lacks its second bar."""
    rows = (line.split("|", 1) for line in text.split("\n")[1:] if line.strip())
    return ((name, rest.lstrip().lstrip("0123456789").lstrip(" |")) for name, rest in rows)


LISTS: dict[str, Callable[[str], Iterator[tuple[str, str]]]] = {
    "results_20130124.token": _read_token,
    "dataset_flickr30k.json": _read_json,
    "results.csv": _read_csv,
}


def _read_captions(file: Stored) -> dict[str, list[str]]:
    """File name to its captions, in the list's order."""
    captions: dict[str, list[str]] = {}
    with shaped(f"{file} is no list of Flickr30k captions"):
        for name, caption in LISTS[file.name](read_text(file)):
            captions.setdefault(composed(name), []).append(caption.strip())
        if not captions:
            raise ValueError
    return captions


def read_flickr30k(folder: Location) -> Listing:
    """The images that the list of captions names, wherever below the folder they lie, each with its captions."""
    listing = list_files(folder)
    there = {path.rsplit("/", 1)[-1] for path in listing.left}
    name = next((name for name in LISTS if name in there), None)
    if name is None:
        raise UsageError(f"{folder} holds no list of captions: {', '.join(LISTS)}")
    file = listing.use(find_by_name([name], listing.left, folder, folder)[name])
    captions = _read_captions(file)
    paths = find_by_name(captions, listing.left, file, folder)
    listing.items = [Item(key_of(name), listing.take(paths[name]), tuple(captions[name])) for name in sorted(captions)]
    listing.skip_rest(UNLISTED)
    return listing
