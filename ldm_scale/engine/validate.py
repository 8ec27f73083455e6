"""Check shards and a target before anything is audited: Ray reads the shards, the target runs on one CPU."""

import contextlib
import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL.Image import Image

from ldm_scale.analysis.blind import control, controlled, name_features, row_features
from ldm_scale.config.audit import FEWEST, AnalysisConfig
from ldm_scale.config.data import ValidateConfig
from ldm_scale.data.addresses import TAR, Shards, find_manifest, list_shards, open_shards
from ldm_scale.data.classes import describe_table, table_difference
from ldm_scale.data.images import BadImage, open_image, preprocess
from ldm_scale.data.inspection import Inspection, inspect_shard
from ldm_scale.data.manifest import MANIFEST, Manifest, ShardInfo
from ldm_scale.data.samples import Sample
from ldm_scale.data.shards import read_shard
from ldm_scale.data.sources.items import leftover_rule
from ldm_scale.data.split import HELDOUT, MEMBERS, read_split
from ldm_scale.engine.parallel import in_parallel
from ldm_scale.engine.session import session
from ldm_scale.errors import ExistsError, UsageError
from ldm_scale.files.digests import digest
from ldm_scale.files.storage import Location, sub_locations
from ldm_scale.report.blind import confounds
from ldm_scale.schema import PLAIN, split_id
from ldm_scale.targets.class_names import read_class_names
from ldm_scale.targets.trial import Trial, try_target
from ldm_scale.targets.weights import Weights, fetch_weights

# The first images, on which the target is tried.
TRIED = 8
LEFT_OUT = f"cannot be read, for it does not end with {TAR}, but may be a shard"
# Downloads that were cut, and tars that are packed; not what an interrupted write of ours leaves.
_LIKE_SHARDS = re.compile(r"\.(tar|tgz)\b(?!.*\.partial$)")


@dataclass(frozen=True)
class Validation:
    """What was checked, as lines to read, and what is wrong, as lines that name it."""

    facts: tuple[str, ...]
    problems: tuple[str, ...]


def _inspect_all(
    folder: Location, shards: Sequence[ShardInfo] | Sequence[str], classes: int, config: ValidateConfig
) -> Inspection:
    """Every shard, in parallel; what was found, in their order."""
    inspect = functools.partial(
        inspect_shard,
        folder,
        classes=classes,
        share=config.decode_share,
        seed=config.seed,
        max_pixels=config.images.max_pixels,
    )
    total = Inspection()
    with session():
        for found in in_parallel(inspect, shards, "shards"):
            total.add(found)
    return total


@dataclass(frozen=True)
class Checked:
    """The shards, what was found in them, the place of their manifest, in words, and how many other files lie there."""

    shards: Shards
    found: Inspection
    manifest: str
    others: int


def _look_beside(address: str, folder: Location, names: set[str], found: Inspection) -> int:
    """How many other files lie in a folder of shards; it is a problem if one may be a shard that is left out.

    Whoever gives a pattern has chosen: then none is looked for.
    """
    if Location.of(address).uri != folder.uri:
        return 0
    others = 0
    for path, _ in sub_locations(folder, "", found.complain):
        if path in names or path == MANIFEST:
            continue
        others += 1
        if leftover_rule(path) is not None:
            continue
        if path.endswith(TAR):
            found.complain("is a shard that the manifest beside it does not name", path)
        elif _LIKE_SHARDS.search(path.lower()):
            found.complain(LEFT_OUT, path)
    return others


def _check_shards(config: ValidateConfig) -> Checked:
    """Every shard against its manifest; if there is none, as it is."""
    assert config.shards is not None
    file = find_manifest(config.shards, config.manifest)
    if file is not None and config.write_manifest:
        raise ExistsError(f"{file} exists already; nothing is overwritten")
    if file is None and (config.manifest is None or config.write_manifest):
        return _describe(config, config.shards)
    shards = open_shards(config.shards, config.manifest)
    found = _inspect_all(shards.folder, shards.manifest.shards, len(shards.manifest.classes), config)
    others = 0
    # Who gives a manifest that lies elsewhere has chosen, too.
    if config.manifest is None:
        others = _look_beside(config.shards, shards.folder, {shard.name for shard in shards.manifest.shards}, found)
    return Checked(shards, found, str(file), others)


def _describe(config: ValidateConfig, address: str) -> Checked:
    """Shards without a manifest, with the one that is made of what is found; it is written if that is asked for."""
    folder, names = list_shards(address)
    file = folder / MANIFEST if config.manifest is None else Location.of(config.manifest)
    if config.write_manifest:
        file.check_place()
    found = _inspect_all(folder, names, 0, config)
    others = _look_beside(address, folder, set(names), found)
    manifest = Manifest(
        shards=tuple(found.shards),
        split="by folder",
        # Nothing else says who is a member, and how samples are called, than their shards' names.
        split_sha256=digest([shard.name for shard in found.shards]),
    )
    where = "none"
    if not config.write_manifest:
        found.complain("has no manifest, and audits need one; --write-manifest makes it", folder.uri)
    elif len(found.shards) < len(names) or LEFT_OUT in found.problems:
        found.complain("a manifest is not written if shards cannot be read or hold no samples", folder.uri)
    else:
        file.create(manifest.encode())
        where = f"{file}, written now"
    return Checked(Shards(folder, manifest), found, where, others)


def _facts(checked: Checked) -> Iterator[str]:
    manifest, found = checked.shards.manifest, checked.found
    sides = {side: sum(shard.samples for shard in manifest.shards if shard.side == side) for side in (MEMBERS, HELDOUT)}
    other = manifest.samples - sum(sides.values())
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    yield (
        f"{checked.shards.folder}: {len(manifest.shards)} shards, {size:,.1f} MB, {len(found.keys)} samples; by their "
        f"folders {sides[MEMBERS]} members, {sides[HELDOUT]} held-out"
        + (f", {other} in neither folder" if other else "")
    )
    yield f"  manifest: {checked.manifest}"
    if checked.others:
        yield f"  other files there, which are not read: {checked.others}"
    files = ", ".join(f"{count} {suffix}" for suffix, count in sorted(found.files.items()))
    pixels = (
        f"; {found.decoded} images decoded, sides of {found.sides[0]} to {found.sides[1]} px" if found.sides else ""
    )
    yield f"  files: {files}{pixels}"
    labels = [label for _, label in found.conditions if label is not None]
    classes = f"; classes {min(labels)} to {max(labels)}, the manifest names {len(manifest.classes)}" if labels else ""
    captions = sum(count for (caption, _), count in found.conditions.items() if caption)
    each = f", {found.captions[0]} to {found.captions[1]} a sample" if found.captions else ""
    yield f"  captions: {captions}{each}{classes}"
    if manifest.classes:
        yield f"  class names: {describe_table(manifest.classes)}"


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


def _known_sides(config: ValidateConfig, checked: Checked) -> dict[str, bool]:
    """Who is a member, by sample id in order, as far as the split file or the folders of shards say it."""
    split = None if config.split is None else read_split(Location.of(config.split)).membership()
    sides = {shard.stem: shard.side for shard in checked.shards.manifest.shards}
    known: dict[str, bool] = {}
    for sample_id in sorted(checked.found.plain):
        stem, key = split_id(sample_id)
        listed = split.get(key) if split is not None else {MEMBERS: True, HELDOUT: False}.get(sides.get(stem, ""))
        if listed is not None:
            known[sample_id] = listed
    return known


def _apart(config: ValidateConfig, checked: Checked) -> list[str]:
    """What tells members from held-out images by the shards alone; nothing if a side is too small to say."""
    known = _known_sides(config, checked)
    ids, member = [*known], np.array([*known.values()], dtype=bool)
    if min(int(member.sum()), len(ids) - int(member.sum())) < FEWEST:
        return []
    some = controlled(member, config.seed)
    ids = [ids[number] for number in some]
    plain = np.stack([checked.found.plain[sample_id] for sample_id in ids]).astype(np.float64)
    blind, names = (
        control(features, member[some], AnalysisConfig(), config.seed)
        for features in (row_features(PLAIN, plain), name_features(ids))
    )
    return confounds(blind, names)


def _good_samples(shards: Shards, max_pixels: int) -> Iterator[tuple[Sample, Image]]:
    """The samples, in order, whose images can be decoded, with these."""
    for shard in shards.manifest.shards:
        for sample in read_shard(shards.folder, shard):
            with contextlib.suppress(BadImage):  # raised for samples with a fault, too: they have no image
                yield sample, open_image(sample.image, max_pixels)


def _try(config: ValidateConfig, weights: Weights, samples: Sequence[tuple[Sample, Image]]) -> Trial:
    target = weights.load("cpu", config.images.size)
    tried: list[tuple[Sample, np.ndarray]] = []
    for sample, image in samples:
        with contextlib.suppress(BadImage):
            tried.append((sample, preprocess(image, config.images, target.image_size)))
    captions, labels = [sample.caption for sample, _ in tried], [sample.label for sample, _ in tried]
    trial = try_target(target, [pixels for _, pixels in tried], captions, labels, config.seed)
    read = weights.describe()
    return replace(trial, facts=(*trial.facts, f"  weights: {read}")) if read else trial


def run_validation(config: ValidateConfig) -> Validation:
    """Check the shards, the split file and the target that are given; write the shards' manifest if that is asked.

    Raises:
        UsageError: One of them cannot be used at all.
    """
    if config.shards is None and config.target is None:
        raise UsageError("nothing to check: give --shards, --target or both")
    facts: list[str] = []
    problems: list[str] = []
    samples: list[tuple[Sample, Image]] = []
    found = Inspection()
    names: tuple[str, ...] = ()
    if config.shards is not None:
        checked = _check_shards(config)
        found, names = checked.found, checked.shards.manifest.classes
        facts += _facts(checked)
        problems += (f"{problem} ({count}; the first: {first})" for problem, (count, first) in found.problems.items())
        problems += _split_problems(config, found)
        facts += (f"warning: {warning}" for warning in _apart(config, checked))
        if not found.problems:
            samples = list(itertools.islice(_good_samples(checked.shards, config.images.max_pixels), TRIED))
    if config.target is not None:
        weights = fetch_weights(config.target, config.lora)
        trial = _try(config, weights, samples)
        facts += trial.facts
        problems += trial.problems
        if difference := table_difference(names, read_class_names(weights.target.path)):
            problems.append(f"{config.target} was trained on another table of classes: {difference}")
        if refused := trial.refused(found.conditions):
            reason = refused.most_common(1)[0][0]
            problems.append(f"{config.target} cannot take {refused.total()} samples, most often because of {reason}")
    return Validation(tuple(facts), tuple(problems))
