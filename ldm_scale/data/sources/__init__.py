"""Where samples come from before they are packed: one module for each kind of source."""

from collections.abc import Callable
from typing import cast

from ldm_scale.config.installed import find_installed, load_installed
from ldm_scale.data.sources.arrow import read_arrow
from ldm_scale.data.sources.celeba import read_celeba
from ldm_scale.data.sources.cifar10 import read_cifar10
from ldm_scale.data.sources.coco import read_coco
from ldm_scale.data.sources.emoji import read_emoji
from ldm_scale.data.sources.flickr30k import read_flickr30k
from ldm_scale.data.sources.folder import read_folder
from ldm_scale.data.sources.imagenet import read_imagenet
from ldm_scale.data.sources.items import Listing
from ldm_scale.data.sources.parquet import read_parquet
from ldm_scale.data.sources.webdataset import read_webdataset
from ldm_scale.files.storage import Location

SOURCES: dict[str, Callable[[Location], Listing]] = {
    "arrow": read_arrow,
    "celeba": read_celeba,
    "cifar10": read_cifar10,
    "coco": read_coco,
    "emoji": read_emoji,
    "flickr30k": read_flickr30k,
    "folder": read_folder,
    "imagenet": read_imagenet,
    "parquet": read_parquet,
    "webdataset": read_webdataset,
}
# Sources whose items come in no official order: no index file of a paper can name them by number.
UNORDERED = frozenset({"emoji", "folder"})
# Other packages add theirs to this group of entry points: from the source's folder to a Listing.
GROUP = "ldm_scale.sources"


def find_reader(name: str) -> Callable[..., Listing]:
    """What reads a kind of source, ours or an installed one.

    Raises:
        UsageError: There is no such kind, or it cannot be loaded.
    """
    point = find_installed(GROUP, name, "data set", SOURCES)
    if point is None:
        return SOURCES[name]
    return cast("Callable[..., Listing]", load_installed(point, callable, "function of a folder"))
