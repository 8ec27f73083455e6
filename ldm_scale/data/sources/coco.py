"""MS-COCO: image folders such as `val2017/` beside `annotations/captions_val2017.json`.

Keys are `val2017/000000000139` and so on; items come by image id, as pycocotools and torchvision order them.
"""

import json

from ldm_scale.data.sources.items import Item, check_present, key_of
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location


def _read_captions(listing: Location) -> dict[str, str | None]:
    """File name to the first caption in the file, by image id."""
    try:
        content = json.loads(listing.read_text())
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        captions = {entry["image_id"]: entry["caption"].strip() for entry in reversed(content["annotations"])}
        return {names[number]: captions.get(number) for number in sorted(names)}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{listing} is no file of COCO captions: it needs images and annotations") from None


def _read_part(folder: Location, part: str, listing: Location) -> list[Item]:
    captions = _read_captions(listing)
    files = {location.name: location for location in (folder / part).files()}
    check_present(captions, files, listing, folder / part)
    return [Item(f"{part}/{key_of(name)}", files[name], caption) for name, caption in captions.items()]


def read_coco(folder: Location) -> list[Item]:
    """The images of every captions file whose image folder is there, each with its first caption."""
    listings = {
        location.name.removeprefix("captions_").removesuffix(".json"): location
        for location in (folder / "annotations").files(".json")
        if location.name.startswith("captions_")
    }
    parts = [part for part in listings if (folder / part).is_dir()]
    if not parts:
        raise UsageError(
            f"{folder} needs annotations/captions_NAME.json and the image folder NAME beside annotations (val2017, say)"
        )
    return [item for part in parts for item in _read_part(folder, part, listings[part])]
