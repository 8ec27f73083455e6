"""From a source to shards with a manifest and a split into members and held-out samples.

First all is planned: what the source holds, who is on which side, and which items make which shard. The plan is kept in
`pack.json`, which is a split file too. Then each shard is written on its own, from nothing but its items, and described
in `.pack/`; so an interrupted pack goes on where it stopped, and the shards are the same however many write them. The
manifest comes last.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image
from pydantic import TypeAdapter

from ldm_scale.config.base import Record
from ldm_scale.config.data import PackConfig
from ldm_scale.data.choose import (
    Reject,
    Removed,
    Sides,
    check_rejects,
    choose,
    decode,
    read_given_split,
    read_image,
    read_source,
)
from ldm_scale.data.classes import number_classes
from ldm_scale.data.counts import COUNTS, Counts, Skipped
from ldm_scale.data.images import PACKED, SIGNATURE, STORED, BadImage, encode_png, format_of, open_image
from ldm_scale.data.manifest import MANIFEST, Manifest, ShardInfo, read_manifest, write_manifest
from ldm_scale.data.removed import write_removed
from ldm_scale.data.samples import IMAGE_SUFFIXES, Sample
from ldm_scale.data.shards import write_shard
from ldm_scale.data.sources.items import Item, Listing
from ldm_scale.data.split import HELDOUT, MEMBERS, Split
from ldm_scale.data.work import RunTasks, one_by_one
from ldm_scale.errors import UsageError
from ldm_scale.files.digests import differences
from ldm_scale.files.storage import Location, read_model

PLAN = "pack.json"
COMMITTED = ".pack"
REJECTS = "rejects.json"
SHARD_BYTES = 256 << 20
# Of images whose names have none that shards know.
SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


class PackPlan(Record):
    """pack.json: what was asked of which source, and who is on which side."""

    format: Literal[1] = 1
    request: dict[str, Any]
    how: str
    rejects: tuple[Reject, ...]
    removed: tuple[Removed, ...] = ()
    members: tuple[str, ...]
    heldout: tuple[str, ...]


class Written(Record):
    """.pack/STEM.json: one shard as it was written, and what was rejected meanwhile."""

    shard: ShardInfo
    rejects: tuple[Reject, ...]


@dataclass(frozen=True)
class WriteTask:
    """One shard to write: its name and its items."""

    name: str
    items: list[Item]


def _listing_digest(items: Iterable[Item]) -> str:
    digest = hashlib.sha256()
    for item in items:
        line = [item.key, item.location.size(), item.captions, item.label, item.metadata]
        digest.update(json.dumps(line, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _read_plan(out: Location, request: dict[str, Any]) -> PackPlan | None:
    """The plan of an earlier pack into this folder; raises UsageError, with the differences, if it was another."""
    if not (out / PLAN).is_file():
        return None
    plan = read_model(out / PLAN, PackPlan, "the plan of a pack", most=None)
    if changes := differences(plan.request, request):
        raise UsageError(f"{out} holds another pack ({'; '.join(changes)}); give a new folder, nothing is overwritten")
    return plan


def _begin(out: Location, request: dict[str, Any], choice: Sides) -> PackPlan:
    plan = PackPlan(
        request=request,
        how=choice.how,
        rejects=choice.rejects,
        removed=choice.removed,
        members=choice.split.members,
        heldout=choice.split.heldout,
    )
    (out / PLAN).create(plan.model_dump_json().encode())
    return plan


def cut(sizes: Sequence[int], max_samples: int, max_bytes: int) -> Iterator[slice]:
    """Runs of consecutive samples, each of at most `max_samples` and `max_bytes`, but of one sample at least."""
    start = total = 0
    for place, size in enumerate(sizes):
        if place > start and (place - start >= max_samples or total + size > max_bytes):
            yield slice(start, place)
            start, total = place, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))


def _plan_shards(side: str, items: list[Item], config: PackConfig) -> list[WriteTask]:
    # A PNG has at most about as many bytes as its pixels.
    sizes = [item.location.size() if config.size is None else 3 * config.size**2 for item in items]
    runs = cut(sizes, config.shard_samples, SHARD_BYTES)
    return [WriteTask(f"{side}/{side}-{number:06d}.tar", items[run]) for number, run in enumerate(runs)]


def _as_stored(data: bytes, name: str, max_pixels: int) -> tuple[bytes, str]:
    """An image as it is, or as a PNG if it is of a format that shards do not hold; and the suffix it has there."""
    kind = format_of(data[:SIGNATURE])
    if kind not in STORED:
        return encode_png(open_image(data, max_pixels, PACKED)), "png"
    own = name.rsplit(".", 1)[-1].lower()
    return data, own if own in IMAGE_SUFFIXES else SUFFIXES[kind]


def _load(item: Item, config: PackConfig, classes: dict[str | int, int]) -> Sample:
    if config.size is None:
        data, suffix = _as_stored(read_image(item), item.location.name, config.max_pixels)
    else:
        image = decode(item, config.max_pixels).resize((config.size, config.size), Image.Resampling.BICUBIC)
        data, suffix = encode_png(image), "png"
    label = None if item.label is None else classes[item.label]
    return Sample(item.key, data, suffix, item.captions, label, item.metadata)


def _commit_of(out: Location, name: str) -> Location:
    return out / COMMITTED / name.rsplit("/", 1)[-1].replace(".tar", ".json")


def write_task(task: WriteTask, out: Location, config: PackConfig, classes: dict[str | int, int]) -> Written:
    """Write one shard and then its description, in place of what an interrupted try may have left.

    Raises:
        RunError: An image that was listed cannot be read.
    """
    rejects: list[Reject] = []

    def samples() -> Iterator[Sample]:
        for item in task.items:
            try:
                yield _load(item, config, classes)
            except BadImage as error:
                rejects.append(Reject(key=item.key, reason=str(error)))

    written = Written(shard=write_shard(samples(), out, task.name), rejects=tuple(rejects))
    _commit_of(out, task.name).replace(written.model_dump_json().encode())
    return written


def _write_all(
    tasks: list[WriteTask], out: Location, config: PackConfig, classes: dict[str | int, int], run: RunTasks
) -> list[Written]:
    """Every shard in order, those that are committed already as they were described then."""
    commits = (out / COMMITTED).files(".json")
    done = {commit: read_model(commit, Written, "the description of a shard", most=None) for commit in commits}
    todo = [task for task in tasks if _commit_of(out, task.name) not in done]
    rejects = [reject for written in done.values() for reject in written.rejects]
    samples = sum(len(task.items) for task in tasks)
    check_rejects(rejects, samples, config)
    write = functools.partial(write_task, out=out, config=config, classes=classes)
    for task, written in zip(todo, run(write, todo, "shards"), strict=True):
        done[_commit_of(out, task.name)] = written
        rejects.extend(written.rejects)
        check_rejects(rejects, samples, config)
    return [done[_commit_of(out, task.name)] for task in tasks]


def _count(listing: Listing, plan: PackPlan, left_out: set[str]) -> Counts:
    keys = {*plan.members, *plan.heldout} - left_out
    taken = [item for item in listing.items if item.key in keys]
    chosen = len(plan.members) + len(plan.heldout) + len(plan.rejects) + len(plan.removed)
    counts = Counts(
        seen=listing.seen,
        taken=len(taken),
        rejected=len(left_out),
        near_duplicates=len(plan.removed),
        not_drawn=len(listing.items) - chosen,
        read=listing.read,
        skipped={rule: Skipped(count=count, first=first) for rule, (count, first) in sorted(listing.skipped.items())},
        captioned=sum(bool(item.captions) for item in taken),
        classed=sum(item.label is not None for item in taken),
    )
    counts.check()
    return counts


def _finish(
    out: Location, plan: PackPlan, written: list[Written], classes: Iterable[str], listing: Listing
) -> Manifest:
    rejects = [*plan.rejects, *(reject for shard in written for reject in shard.rejects)]
    how = plan.how
    if rejects:
        (out / REJECTS).replace(TypeAdapter(list[Reject]).dump_json(rejects, indent=1))
        how += f"; {len(rejects)} rejected, see {REJECTS}"
    left_out = {reject.key for reject in rejects}
    sides = (tuple(key for key in side if key not in left_out) for side in (plan.members, plan.heldout))
    manifest = Manifest(
        shards=tuple(shard.shard for shard in written),
        classes=tuple(classes),
        split=how,
        split_sha256=Split(*sides).sha256,
    )
    counts = _count(listing, plan, left_out)
    assert counts.taken == manifest.samples
    (out / COUNTS).replace(counts.model_dump_json(indent=1).encode())
    write_manifest(out, manifest)
    return manifest


def pack(config: PackConfig, run: RunTasks = one_by_one) -> Manifest:
    """Write `config.source` as shards below `config.out`, members and held-out apart, and the manifest last.

    Images are copied byte for byte, unless `config.size` asks for PNGs of that size; of formats that shards do not hold
    they become PNGs. `run` does the work, here or on a cluster, with the same result. The same call again resumes a
    pack, and leaves a finished one as it is.

    Raises:
        UsageError: The source, split or output folder cannot be used; nothing is overwritten.
        RunError: Too many images are bad, or one that was listed cannot be read.
    """
    out = Location.of(config.out)
    if not (out / PLAN).is_file() and not out.is_empty():
        raise UsageError(f"{out} is not empty and holds no pack; give a new folder, nothing is overwritten")
    if not (out / MANIFEST).is_file():
        out.check_place()
    listing = read_source(config)
    items = listing.items
    places = {item.label: item.location for item in reversed(items) if item.label is not None}
    classes, names = number_classes(places, listing.classes)
    given = read_given_split(listing, config)
    request = {**config.science(), "listing": _listing_digest(items), "split": given.sha256 if given else None}
    plan = _read_plan(out, request) or _begin(out, request, choose(items, given, config, run))
    if (out / MANIFEST).is_file():
        return read_manifest(out)
    by_key = {item.key: item for item in items}
    tasks = [
        task
        for side, keys in ((MEMBERS, plan.members), (HELDOUT, plan.heldout))
        for task in _plan_shards(side, [by_key[key] for key in keys], config)
    ]
    written = _write_all(tasks, out, config, classes, run)
    if plan.removed:
        write_removed(out, plan.removed, by_key, config, run)
    return _finish(out, plan, written, names, listing)
