"""MS-COCO: image folders such as `val2017/` beside `annotations/captions_val2017.json`.

Keys are `val2017/000000000139` and so on; items come by image id, as pycocotools and torchvision order them.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator

from ldm_scale.data.sources.items import UNLISTED, Item, Listing, Stored, check_present, composed, key_of, list_files
from ldm_scale.data.sources.text import read_text
from ldm_scale.errors import UsageError, shaped
from ldm_scale.files.storage import Location

_CAPTIONS = re.compile(r"annotations/captions_([^/]+)\.json")


def _read_captions(file: Stored) -> dict[str, tuple[str, ...]]:
    """File name to the captions in the file's order, by image id."""
    with shaped(f"{file} is no file of COCO captions: it needs images and annotations"):
        content = json.loads(read_text(file))
        pairs = {(image["id"], composed(str(image["file_name"]))) for image in content["images"]}
        names = dict(pairs)
        captions = defaultdict(list)
        for entry in content["annotations"]:
            captions[entry["image_id"]].append(entry["caption"].strip())
        found = {names[number]: tuple(captions[number]) for number in sorted(names)}
    if len(found) < len(pairs):
        raise UsageError(f"{file} has two images of one id or of one file_name")
    return found


def _read_part(listing: Listing, folder: Location, part: str, file: Stored) -> Iterator[Item]:
    captions = _read_captions(file)
    # Names in the list are below the image folder, whatever that is called.
    paths = {composed(path.removeprefix(f"{part}/")): path for path in listing.left if path.startswith(f"{part}/")}
    check_present(captions, paths, file, folder / part)
    for name, texts in captions.items():
        yield Item(f"{part}/{key_of(name)}", listing.take(paths[name]), texts)


def read_coco(folder: Location) -> Listing:
    """The images of every captions file whose image folder is there, each with its captions."""
    listing = list_files(folder)
    folders = {path.split("/")[0] for path in listing.left if "/" in path}
    parts = {match[1]: path for path in listing.left if (match := _CAPTIONS.fullmatch(path)) and match[1] in folders}
    if not parts:
        raise UsageError(
            f"{folder} needs annotations/captions_NAME.json and the image folder NAME beside annotations (val2017, say)"
        )
    for part, path in parts.items():
        listing.items += _read_part(listing, folder, part, listing.use(path))
    listing.skip_rest(UNLISTED)
    return listing
