"""A kind of source: images with their captions in index.tsv."""

from ldm_scale.data.sources.items import Item, Listing, key_of, list_files
from ldm_scale.data.sources.text import read_text
from ldm_scale.files.storage import Location


def read_tsv(folder: Location) -> Listing:
    """Each line of index.tsv: the name of a file, a tab, its caption."""
    listing = list_files(folder)
    for line in read_text(listing.use("index.tsv")).splitlines():
        name, caption = line.split("\t")
        listing.items.append(Item(key_of(name), listing.take(name), captions=(caption,)))
    listing.skip_rest("not in index.tsv")
    return listing
