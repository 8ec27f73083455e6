"""Where samples come from before they are packed: one module for each kind of source."""

from collections.abc import Callable

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
# Sources whose items come in an official order, so that index files of the papers can name them by number.
ORDERED = frozenset(SOURCES) - {"emoji", "folder"}
