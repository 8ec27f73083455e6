"""From a source to shards with a manifest and a split into members and held-out samples."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from ldm_scale.config import PackConfig
from ldm_scale.data.images import FILTERS, BadImage, encode_png, on_white, open_image
from ldm_scale.data.shards import Manifest, Sample, write_manifest, write_shards
from ldm_scale.data.sources import ORDERED, SOURCES
from ldm_scale.data.sources.items import Item
from ldm_scale.data.split import (
    HELDOUT,
    MEMBERS,
    Split,
    check_keys,
    duplicate_groups,
    random_halves,
    read_index_split,
    read_split,
)
from ldm_scale.errors import UsageError
from ldm_scale.registry import unknown_name
from ldm_scale.storage import Location

THUMBNAIL = 32


def _read_items(config: PackConfig) -> list[Item]:
    if config.dataset not in SOURCES:
        raise unknown_name("data set", config.dataset, SOURCES)
    source = Location.of(config.source)
    if not source.is_dir():
        raise UsageError(f"source folder {source} does not exist")
    items = SOURCES[config.dataset](source)
    if not items:
        raise UsageError(f"source folder {source} holds no images (jpg, jpeg, png, webp)")
    keys = [item.key for item in items]
    if len(set(keys)) < len(keys):
        doubled = next(key for key in keys if keys.count(key) > 1)
        raise UsageError(f"two images of {source} have the key {doubled!r}; rename one")
    return items


def _open(item: Item, config: PackConfig) -> Image.Image:
    try:
        return on_white(open_image(item.location.read_bytes(), config.max_pixels))
    except BadImage as error:
        raise UsageError(
            f"{item.location} {error}; remove it, or copy files as they are: --near-duplicates 0 and no --size"
        ) from None


def _thumbnail(item: Item, config: PackConfig) -> np.ndarray:
    small = _open(item, config).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).ravel() / 255


def _without_duplicates(items: list[Item], config: PackConfig) -> list[Item]:
    """One item of each group of near-duplicates, so that no picture stands on both sides of the split."""
    thumbnails = np.stack([_thumbnail(item, config) for item in items])
    groups = duplicate_groups(thumbnails, [item.variant or item.key for item in items], config.near_duplicates)
    _, first = np.unique(groups, return_index=True)
    return [items[index] for index in sorted(first)]


def _read_split(items: list[Item], config: PackConfig, path: str) -> Split:
    if path.endswith(".npz"):
        if config.dataset not in ORDERED:
            raise UsageError(
                f"{path} numbers images, but a {config.dataset} source has no fixed order; give keys as JSON"
            )
        return read_index_split(Location.of(path), [item.key for item in items])
    split = read_split(Location.of(path))
    check_keys(split, {item.key for item in items}, f"source folder {config.source}")
    return split


def _choose_split(items: list[Item], config: PackConfig) -> tuple[Split, str]:
    if config.split is not None:
        return _read_split(items, config, config.split), "a split file"
    how = f"random halves, seed {config.seed}"
    if config.near_duplicates:
        kept = _without_duplicates(items, config)
        how += (
            f", one of each group of near-duplicates (RMS {config.near_duplicates}; {len(items) - len(kept)} removed)"
        )
        items = kept
    keys = [item.key for item in items]
    if config.max_samples is not None and len(keys) > config.max_samples:
        keys = list(np.random.default_rng(config.seed).choice(sorted(keys), config.max_samples, replace=False))
    if len(keys) < 2:
        raise UsageError(f"{config.source}: {len(keys)} images are left after near-duplicates; a split needs two")
    return random_halves(keys, config.seed), how


def _load(item: Item, config: PackConfig, classes: dict[str, int]) -> Sample:
    if config.size is None:
        data, suffix = item.location.read_bytes(), item.location.name.rsplit(".", 1)[-1].lower()
    else:
        data, suffix = encode_png(_open(item, config).resize((config.size, config.size), FILTERS["bicubic"])), "png"
    label = classes[item.label] if item.label is not None else None
    return Sample(item.key, data, suffix, item.caption, label)


def pack(config: PackConfig) -> Manifest:
    """Write `config.source` as shards below `config.out`, members and held-out apart, and the manifest last.

    Images are copied byte for byte, unless `config.size` asks for PNGs of that size.
    Raises UsageError for a source, split or output folder that cannot be used; nothing is overwritten.
    """
    out = Location.of(config.out)
    if not out.is_empty():
        raise UsageError(f"{out} is not empty; give a new folder, nothing is overwritten")
    items = {item.key: item for item in _read_items(config)}
    split, how = _choose_split(list(items.values()), config)
    if config.size is not None:
        # Before the first shard is written: a picture that cannot be resized leaves no half-written folder.
        for key in (*split.members, *split.heldout):
            _open(items[key], config)
    names = sorted({item.label for item in items.values() if item.label is not None})
    classes = {name: number for number, name in enumerate(names)}

    def samples(keys: tuple[str, ...]) -> Iterator[Sample]:
        return (_load(items[key], config, classes) for key in keys)

    members = write_shards(samples(split.members), out, MEMBERS, config.shard_samples)
    heldout = write_shards(samples(split.heldout), out, HELDOUT, config.shard_samples)
    manifest = Manifest(shards=(*members, *heldout), classes=tuple(names), split=how, split_sha256=split.sha256)
    write_manifest(out, manifest)
    return manifest
