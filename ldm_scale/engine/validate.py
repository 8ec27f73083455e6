"""Check shards and a target before anything is audited: Ray reads the shards, the target runs on one CPU."""

import contextlib
import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL.Image import Image

from ldm_scale.config import ValidateConfig
from ldm_scale.data.images import BadImage, open_image, preprocess
from ldm_scale.data.inspection import Inspection, inspect_shard
from ldm_scale.data.manifest import Manifest, read_manifest
from ldm_scale.data.samples import Sample
from ldm_scale.data.shards import read_shard
from ldm_scale.data.split import HELDOUT, MEMBERS, read_split
from ldm_scale.engine.parallel import in_parallel
from ldm_scale.engine.session import session
from ldm_scale.errors import UsageError
from ldm_scale.storage import Location
from ldm_scale.targets import fetch_weights
from ldm_scale.targets.trial import Trial, try_target

# The first images, on which the target is tried.
TRIED = 8


@dataclass(frozen=True)
class Validation:
    """What was checked, as lines to read, and what is wrong, as lines that name it."""

    facts: tuple[str, ...]
    problems: tuple[str, ...]


def _inspect_all(folder: Location, manifest: Manifest, config: ValidateConfig) -> Inspection:
    """Every shard, in parallel; what was found, in the manifest's order."""
    inspect = functools.partial(
        inspect_shard,
        folder,
        classes=len(manifest.classes),
        share=config.decode_share,
        seed=config.seed,
        max_pixels=config.images.max_pixels,
    )
    total = Inspection()
    with session():
        for found in in_parallel(inspect, manifest.shards, "shards"):
            total.add(found)
    return total


def _describe_shards(folder: Location, manifest: Manifest, found: Inspection) -> Iterator[str]:
    sides = {side: sum(shard.samples for shard in manifest.shards if shard.side == side) for side in (MEMBERS, HELDOUT)}
    other = manifest.samples - sum(sides.values())
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    yield (
        f"{folder}: {len(manifest.shards)} shards, {size:,.1f} MB, {len(found.keys)} samples; by the manifest "
        f"{sides[MEMBERS]} members, {sides[HELDOUT]} held-out" + (f", {other} in neither folder" if other else "")
    )
    files = ", ".join(f"{count} {suffix}" for suffix, count in sorted(found.files.items()))
    pixels = (
        f"; {found.decoded} images decoded, sides of {found.sides[0]} to {found.sides[1]} px" if found.sides else ""
    )
    yield f"  files: {files}{pixels}"
    labels = [label for _, label in found.conditions if label is not None]
    classes = f"; classes {min(labels)} to {max(labels)}, the manifest names {len(manifest.classes)}" if labels else ""
    captions = sum(count for (caption, _), count in found.conditions.items() if caption)
    yield f"  captions: {captions}{classes}"


def _split_problems(config: ValidateConfig, found: Inspection) -> Iterator[str]:
    """Keys of the split file that are absent, or that more than one sample has."""
    if config.split is None:
        return
    split = read_split(Location.of(config.split))
    counts = Counter(found.keys)
    wanted = (*split.members, *split.heldout)
    if absent := [key for key in wanted if key not in counts]:
        yield f"{config.split}: {len(absent)} keys are in no shard, the first is {absent[0]!r}"
    if doubled := [key for key in wanted if counts[key] > 1]:
        yield f"{config.split}: {len(doubled)} keys are in more than one shard, the first is {doubled[0]!r}"


def _good_samples(folder: Location, manifest: Manifest, max_pixels: int) -> Iterator[tuple[Sample, Image]]:
    """The samples, in order, whose images can be decoded, with these."""
    for shard in manifest.shards:
        for sample in read_shard(folder, shard):
            with contextlib.suppress(BadImage):  # raised for samples with a fault, too: they have no image
                yield sample, open_image(sample.image, max_pixels)


def _try(config: ValidateConfig, samples: Sequence[tuple[Sample, Image]]) -> Trial:
    assert config.target is not None
    target = fetch_weights(config.target, config.lora).load("cpu", config.images.size)
    tried: list[tuple[Sample, np.ndarray]] = []
    for sample, image in samples:
        with contextlib.suppress(BadImage):
            tried.append((sample, preprocess(image, config.images, target.image_size)))
    captions, labels = [sample.caption for sample, _ in tried], [sample.label for sample, _ in tried]
    return try_target(target, [pixels for _, pixels in tried], captions, labels, config.seed)


def run_validation(config: ValidateConfig) -> Validation:
    """Check the shards, the split file and the target that are given.

    Raises UsageError where one of them cannot be used at all.
    """
    if config.shards is None and config.target is None:
        raise UsageError("nothing to check: give --shards, --target or both")
    facts: list[str] = []
    problems: list[str] = []
    samples: list[tuple[Sample, Image]] = []
    found = Inspection()
    if config.shards is not None:
        folder = Location.of(config.shards)
        manifest = read_manifest(folder)
        found = _inspect_all(folder, manifest, config)
        facts += _describe_shards(folder, manifest, found)
        problems += (f"{problem} ({count}; the first: {first})" for problem, (count, first) in found.problems.items())
        problems += _split_problems(config, found)
        if not found.problems:
            samples = list(itertools.islice(_good_samples(folder, manifest, config.images.max_pixels), TRIED))
    if config.target is not None:
        trial = _try(config, samples)
        facts += trial.facts
        problems += trial.problems
        if refused := trial.refused(found.conditions):
            reason = refused.most_common(1)[0][0]
            problems.append(f"{config.target} cannot take {refused.total()} samples, most often because of {reason}")
    return Validation(tuple(facts), tuple(problems))
