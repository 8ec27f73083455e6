"""Flickr30k: images with `results_20130124.token`, `dataset_flickr30k.json` (Karpathy) or `results.csv` (Kaggle).

Keys are the file names without suffix; items come by file name, as torchvision orders them.
"""

import json
from collections.abc import Callable, Iterable

from ldm_scale.data.sources.items import Item, check_present, is_image, key_of
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location, sub_locations


def _first(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    captions: dict[str, str] = {}
    for name, caption in pairs:
        captions.setdefault(name, caption.strip())
    return captions


def _read_token(text: str) -> dict[str, str]:
    """Lines `1000092795.jpg#0<TAB>caption`."""
    rows = (line.split("\t", 1) for line in text.split("\n") if line.strip())
    return _first((name.rsplit("#", 1)[0], caption) for name, caption in rows)


def _read_json(text: str) -> dict[str, str]:
    """Karpathy's list of images, each with its sentences."""
    return {image["filename"]: image["sentences"][0]["raw"].strip() for image in json.loads(text)["images"]}


def _read_csv(text: str) -> dict[str, str]:
    """Lines `1000092795.jpg| 0| caption` below a header; one line of the published file lacks its second bar."""
    rows = (line.split("|", 1) for line in text.split("\n")[1:] if line.strip())
    return _first((name, rest.lstrip().lstrip("0123456789").lstrip(" |")) for name, rest in rows)


LISTINGS: dict[str, Callable[[str], dict[str, str]]] = {
    "results_20130124.token": _read_token,
    "dataset_flickr30k.json": _read_json,
    "results.csv": _read_csv,
}


def read_flickr30k(folder: Location) -> list[Item]:
    """The images that the list of captions names, wherever below the folder they lie, each with its first caption."""
    files = {location.name: location for _, location in sub_locations(folder, "")}
    name = next((name for name in LISTINGS if name in files), None)
    if name is None:
        raise UsageError(f"{folder} holds no list of captions: {', '.join(LISTINGS)}")
    listing = files[name]
    try:
        captions = LISTINGS[name](listing.read_text())
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        captions = {}
    if not captions:
        raise UsageError(f"{listing} is no list of Flickr30k captions")
    images = {name: location for name, location in files.items() if is_image(name)}
    check_present(captions, images, listing, folder)
    return [Item(key_of(name), images[name], captions[name]) for name in sorted(captions)]
