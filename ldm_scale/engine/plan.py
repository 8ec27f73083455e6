"""What an audit will do, settled before any actor starts: inputs checked, resolved, and hashed into a fingerprint."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import ray

from ldm_scale.attacks.registry import make_attack, resolve_options
from ldm_scale.auditor import measures_distortion
from ldm_scale.config import AuditConfig, digest
from ldm_scale.data.shards import Manifest, read_manifest, read_shard
from ldm_scale.data.split import HELDOUT, MEMBERS, Split, check_keys, read_split
from ldm_scale.engine.reading import ShardTask
from ldm_scale.errors import UsageError
from ldm_scale.rundir import RunRecord
from ldm_scale.storage import Location
from ldm_scale.targets import load_target, target_digest

VERSIONED = ("ldm_scale", "ray", "torch", "diffusers", "numpy", "pyarrow", "scikit-learn")


@dataclass(frozen=True)
class Plan:
    """The run record, and every shard with the samples that are expected of it."""

    record: RunRecord
    tasks: tuple[ShardTask, ...]
    expected: dict[str, int]
    image_size: int


def plan_audit(config: AuditConfig) -> Plan:
    """Check and resolve shards, split, target and attacks.

    Raises UsageError for the first that cannot be used. Needs a connected Ray only where there is a split file.
    """
    attacks = {name: make_attack(name, options) for name, options in config.attacks.items()}
    folder = Location.of(config.shards)
    manifest = read_manifest(folder)
    target = load_target(config.target, "cpu")
    for name, attack in attacks.items():
        if bad := [t for t in attack.timesteps if not 0 <= t < len(target.alphas_cumprod)]:
            raise UsageError(f"attacks.{name}.timesteps: {bad[0]} is not among the target's {len(target.alphas_cumprod)}")
    if config.images.size not in (None, target.image_size):
        raise UsageError(f"images.size = {config.images.size}: the target takes {target.image_size} px")
    dimensions = target.latent_shape[0] * target.latent_shape[1] * target.latent_shape[2]
    if config.masks.bins > dimensions:
        raise UsageError(f"masks.bins = {config.masks.bins} is more than the latent's {dimensions} dimensions")

    tasks, split_sha256 = _assign(config, folder, manifest)
    expected = {task.shard.stem: _wanted(task) for task in tasks}
    members = sum(_members(task) for task in tasks)
    resolved = config.model_copy(update={"attacks": {name: resolve_options(a) for name, a in attacks.items()}})
    science: dict[str, Any] = {
        **resolved.science(),
        "shards": digest([shard.sha256 for shard in manifest.shards]),
        "split": split_sha256,
        "target": target_digest(config.target),
    }
    if not measures_distortion(config.geometry, dimensions):
        science["geometry"]["distortion"] = "off"
    record = RunRecord(
        fingerprint=digest(science),
        science=science,
        config=resolved,
        latent_shape=target.latent_shape,
        timesteps={name: attack.timesteps for name, attack in attacks.items()},
        members=members,
        heldout=sum(expected.values()) - members,
        versions={name: version(name) for name in VERSIONED},
    )
    if not record.members or not record.heldout:
        raise UsageError(f"{folder}: an audit needs members and held-out samples, one of the two is empty")
    return Plan(record, tasks, expected, target.image_size)


def _wanted(task: ShardTask) -> int:
    return task.shard.samples if isinstance(task.membership, bool) else len(task.membership)


def _members(task: ShardTask) -> int:
    return task.shard.samples * task.membership if isinstance(task.membership, bool) else sum(task.membership.values())


def _assign(config: AuditConfig, folder: Location, manifest: Manifest) -> tuple[tuple[ShardTask, ...], str]:
    """Who is a member: by folder, or by the keys of a split file."""
    if config.split is not None:
        split = read_split(Location.of(config.split))
        return _assign_keys(split, folder, manifest), split.sha256
    tasks = []
    for shard in manifest.shards:
        side = shard.name.split("/")[0]
        if side not in (MEMBERS, HELDOUT):
            raise UsageError(f"{folder}/{shard.name} is neither in {MEMBERS}/ nor in {HELDOUT}/; give --split FILE")
        tasks.append(ShardTask(folder=folder.uri, shard=shard, membership=side == MEMBERS))
    return tuple(tasks), manifest.split_sha256


@ray.remote(num_cpus=0.5)
def _shard_keys(location: Location, expected: int) -> list[str]:
    return [sample.key for sample in read_shard(location, expected)]


def _assign_keys(split: Split, folder: Location, manifest: Manifest) -> tuple[ShardTask, ...]:
    listing = ray.get([_shard_keys.remote(folder / shard.name, shard.samples) for shard in manifest.shards])
    check_keys(split, {key for keys in listing for key in keys}, f"shards {folder}")
    membership = split.membership()
    tasks = []
    for shard, keys in zip(manifest.shards, listing, strict=True):
        listed = {key: membership[key] for key in keys if key in membership}
        if listed:
            tasks.append(ShardTask(folder=folder.uri, shard=shard, membership=listed))
    return tuple(tasks)
