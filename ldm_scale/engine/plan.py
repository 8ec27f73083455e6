"""What an audit will do, settled before any actor starts: inputs checked, resolved, and hashed into a fingerprint."""

import math
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import ray

from ldm_scale.attacks.base import Attack
from ldm_scale.attacks.registry import make_attack, resolve_options
from ldm_scale.auditor import resolve_leakage
from ldm_scale.config import CALIBRATED, AuditConfig, MaskConfig, digest
from ldm_scale.data.addresses import open_shards
from ldm_scale.data.manifest import Manifest, ShardInfo
from ldm_scale.data.shards import read_shard
from ldm_scale.data.split import HELDOUT, MEMBERS, Split, check_keys, read_split
from ldm_scale.draws import DRAWS
from ldm_scale.engine.reading import ShardTask
from ldm_scale.errors import UsageError
from ldm_scale.rundir import RunDirectory, RunRecord
from ldm_scale.storage import Location
from ldm_scale.targets import Target, fetch_weights

VERSIONED = ("ldm_scale", "ray", "torch", "diffusers", "numpy", "pyarrow", "scikit-learn")


@dataclass(frozen=True)
class Inputs:
    """What an audit reads, checked and hashed; needs no Ray."""

    config: AuditConfig
    folder: Location
    manifest: Manifest
    split: Split | None
    target: Target
    attacks: dict[str, Attack]
    ranking: np.ndarray | None
    science: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """The digest of everything that rows depend on."""
        return digest(self.science)


@dataclass(frozen=True)
class Plan:
    """The run record, every shard with the samples that are expected of it, and another run's ranking, if any."""

    record: RunRecord
    tasks: tuple[ShardTask, ...]
    image_size: int
    ranking: np.ndarray | None

    def split(self) -> dict[str, dict[str, bool]]:
        """Who is a member, by shard stem and key, where a split file says so."""
        return {task.shard.stem: task.membership for task in self.tasks if isinstance(task.membership, dict)}

    def expected(self) -> dict[str, int]:
        """Samples wanted of each shard, by its stem."""
        return {task.shard.stem: _wanted(task) for task in self.tasks}


def check_inputs(config: AuditConfig) -> Inputs:
    """Read and check manifest, split file, target and attacks before anything is started.

    Raises UsageError for the first that cannot be used.
    """
    attacks = {name: make_attack(name, options) for name, options in config.attacks.items()}
    shards = open_shards(config.shards, config.manifest)
    split = read_split(Location.of(config.split)) if config.split is not None else None
    weights = fetch_weights(config.target, config.lora, config.lora_scale)
    target = weights.load("cpu", config.images.size)
    _check_fit(config, target, attacks)
    ranking = _read_ranking(config, target)
    resolved = config.model_copy(
        update={
            "attacks": {name: resolve_options(attack) for name, attack in attacks.items()},
            "leakage": resolve_leakage(config.leakage, attacks),
            "masks": config.masks if ranking is None else _absolute(config.masks),
            # Absolute: workers, and whoever reads run.json, stand elsewhere.
            **{name: Location.of(at).uri for name in ("out", "shards", "manifest") if (at := getattr(config, name))},
            # Pinned too: a branch may move while the run goes on.
            **weights.addresses,
        }
    )
    science: dict[str, Any] = {
        **resolved.science(),
        "draws": DRAWS,
        "ranking": config.masks.ranking if ranking is None else digest(ranking.tolist()),
        "shards": shards.manifest.sha256,
        "split": split.sha256 if split else shards.manifest.split_sha256,
        **weights.science(),
    }
    return Inputs(resolved, shards.folder, shards.manifest, split, target, attacks, ranking, science)


def _absolute(masks: MaskConfig) -> MaskConfig:
    assert masks.ranking is not None
    return masks.model_copy(update={"ranking": Location.of(masks.ranking).uri})


def _read_ranking(config: AuditConfig, target: Target) -> np.ndarray | None:
    """The mean influences of the finished run whose ranking serves as one mask for all samples, (D,) float64."""
    if config.masks.ranking in (None, CALIBRATED):
        return None
    other = RunDirectory(Location.of(config.masks.ranking))
    shape = other.read_record().latent_shape
    if shape != target.latent_shape:
        raise UsageError(f"masks.ranking: the latents of {other.root} are {shape}, the target's {target.latent_shape}")
    table = other.read_ranking().sort_by("dimension")
    return table["mean"].to_numpy()


def _check_fit(config: AuditConfig, target: Target, attacks: dict[str, Attack]) -> None:
    """Raise UsageError for what the target cannot be asked."""
    steps, dimensions = len(target.alphas_cumprod), math.prod(target.latent_shape)
    for name, attack in attacks.items():
        if not attack.timesteps:
            raise UsageError(f"attacks.{name}.timesteps: give at least one")
        if bad := [t for t in attack.evaluated if not 0 <= t < steps]:
            raise UsageError(f"attacks.{name}.timesteps: {bad[0]} is not among the target's {steps}, and is evaluated")
        if bad := [t for t in attack.evaluated if target.alphas_cumprod[t] == 0]:
            raise UsageError(f"attacks.{name}.timesteps: at {bad[0]} the target sees nothing but noise")
    _check_conditioning(config.conditioning, target)
    if config.masks.bins > dimensions:
        raise UsageError(f"masks.bins = {config.masks.bins} is more than the latent's {dimensions} dimensions")


def _check_conditioning(conditioning: str | int, target: Target) -> None:
    if conditioning == "none":
        target.condition([None], [None])
    elif isinstance(conditioning, int) and (reason := target.refusal(None, conditioning)):
        raise UsageError(f"conditioning = {conditioning} is not a class of the target: {reason}")


def plan_audit(inputs: Inputs, run: RunDirectory) -> Plan:
    """Settle who is a member and what the run record says.

    run: where it will be, or has begun and has kept what a split file says of its shards.
    Raises UsageError where members or held-out are empty. Needs a connected Ray where there is a split file.
    """
    tasks = _by_folder(inputs) if inputs.split is None else _by_key(inputs, run.read_split() or _look_up(inputs))
    members = sum(_members(task) for task in tasks)
    record = RunRecord(
        fingerprint=inputs.fingerprint,
        science=inputs.science,
        config=inputs.config,
        latent_shape=inputs.target.latent_shape,
        timesteps={name: attack.timesteps for name, attack in inputs.attacks.items()},
        members=members,
        heldout=sum(map(_wanted, tasks)) - members,
        versions={name: version(name) for name in VERSIONED},
    )
    if not record.members or not record.heldout:
        raise UsageError(f"{inputs.folder}: an audit needs members and held-out samples, one of the two is empty")
    return Plan(record, tasks, inputs.target.image_size, inputs.ranking)


def _wanted(task: ShardTask) -> int:
    return task.shard.samples if isinstance(task.membership, bool) else len(task.membership)


def _members(task: ShardTask) -> int:
    return task.shard.samples * task.membership if isinstance(task.membership, bool) else sum(task.membership.values())


def _by_folder(inputs: Inputs) -> tuple[ShardTask, ...]:
    tasks = []
    for shard in inputs.manifest.shards:
        if shard.side not in (MEMBERS, HELDOUT):
            raise UsageError(
                f"{inputs.folder}/{shard.name} is neither in {MEMBERS}/ nor in {HELDOUT}/; give --split FILE"
            )
        tasks.append(ShardTask(folder=inputs.folder.uri, shard=shard, membership=shard.side == MEMBERS))
    return tuple(tasks)


@ray.remote(num_cpus=0.5)
def _shard_keys(folder: Location, shard: ShardInfo) -> list[str]:
    return [sample.key for sample in read_shard(folder, shard)]


def _look_up(inputs: Inputs) -> dict[str, dict[str, bool]]:
    """Who is a member, by shard and key: every shard is read for its keys."""
    assert inputs.split is not None
    shards = inputs.manifest.shards
    listing = ray.get([_shard_keys.remote(inputs.folder, shard) for shard in shards])
    check_keys(inputs.split, {key for keys in listing for key in keys}, f"shards {inputs.folder}")
    membership = inputs.split.membership()
    return {
        shard.stem: {key: membership[key] for key in keys if key in membership}
        for shard, keys in zip(shards, listing, strict=True)
    }


def _by_key(inputs: Inputs, split: dict[str, dict[str, bool]]) -> tuple[ShardTask, ...]:
    return tuple(
        ShardTask(folder=inputs.folder.uri, shard=shard, membership=listed)
        for shard in inputs.manifest.shards
        if (listed := split.get(shard.stem))
    )
