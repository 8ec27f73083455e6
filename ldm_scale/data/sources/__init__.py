"""Where samples come from before they are packed: one module for each kind of source."""

from collections.abc import Callable

from ldm_scale.data.sources.cifar10 import read_cifar10
from ldm_scale.data.sources.emoji import read_emoji
from ldm_scale.data.sources.folder import read_folder
from ldm_scale.data.sources.items import Item
from ldm_scale.storage import Location

SOURCES: dict[str, Callable[[Location], list[Item]]] = {
    "cifar10": read_cifar10,
    "emoji": read_emoji,
    "folder": read_folder,
}
