"""What an audit is given: read, checked and hashed before anything is started. Needs no Ray."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ldm_scale.attacks.base import Attack
from ldm_scale.attacks.installed import find_attack
from ldm_scale.attacks.registry import make_attack, resolve_options
from ldm_scale.auditor import resolve_leakage
from ldm_scale.config.audit import CALIBRATED, FEWEST, AuditConfig
from ldm_scale.config.published import Procedure
from ldm_scale.data.addresses import open_shards
from ldm_scale.data.manifest import Manifest
from ldm_scale.data.split import HELDOUT, MEMBERS, Split, read_split
from ldm_scale.data.task import ReadTask
from ldm_scale.device.draws import DRAWS
from ldm_scale.errors import UsageError
from ldm_scale.files.digests import digest
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from ldm_scale.geometry.installed import find_estimator
from ldm_scale.targets.base import Target

if TYPE_CHECKING:
    from ldm_scale.targets.weights import Weights

# Beyond the rounding of two ways to the same noise schedule.
SCHEDULES_DIFFER = 1e-5


@dataclass(frozen=True)
class Inputs:
    """What an audit reads, checked and hashed; needs no Ray."""

    config: AuditConfig
    folder: Location
    manifest: Manifest
    split: Split | None
    weights: "Weights"
    target: Target
    attacks: dict[str, Attack]
    ranking: np.ndarray | None
    procedure: Procedure | None = None

    @cached_property
    def departures(self) -> tuple[str, ...]:
        """What differs from the authors' procedure, a line each, if the audit is to follow it."""
        if self.procedure is None:
            return ()
        attacks = {name: make_attack(name, options) for name, options in self.procedure.recipe["attacks"].items()}
        resolved = {name: resolve_options(attack) for name, attack in attacks.items()}
        return (*self.procedure.departures, *self.procedure.overridden(resolved, self.config.model_dump()))

    @cached_property
    def science(self) -> dict[str, Any]:
        """Everything that rows depend on: values, and digests of what is read (of the weights, once asked for)."""
        return {
            **self.config.science(),
            "draws": DRAWS,
            "ranking": self.config.masks.ranking if self.ranking is None else digest(self.ranking.tolist()),
            "shards": self.manifest.sha256,
            "split": self.split.sha256 if self.split else self.manifest.split_sha256,
            **self.weights.science(),
        }

    @property
    def fingerprint(self) -> str:
        """The digest of everything that rows depend on."""
        return digest(self.science)


def check_inputs(config: AuditConfig, *, outline: bool = False, procedure: Procedure | None = None) -> Inputs:
    """Read and check manifest, split file, target and attacks before anything is started.

    Args:
        config: of the audit.
        outline: load the target's shapes alone, without its weights, on the device "meta".
        procedure: the authors', if the audit is to follow it.

    Raises:
        UsageError: The first of them that cannot be used.
    """
    attacks = {name: make_attack(name, options) for name, options in config.attacks.items()}
    for name in config.analysis.average:
        find_attack(name)
    find_estimator(config.geometry.influence)
    shards = open_shards(config.shards, config.manifest)
    split = read_split(Location.of(config.split)) if config.split is not None else None
    # Not before: it imports diffusers, which takes longer than all else here.
    from ldm_scale.targets.weights import fetch_weights

    weights = fetch_weights(config.target, config.lora, config.lora_scale, outline=outline)
    target = weights.load("meta" if outline else "cpu", config.images.size)
    check_fit(config, target, attacks)
    reference: dict[str, str | None] = {}
    if config.reference is not None:
        compared = fetch_weights(config.reference, outline=outline)
        check_reference(target, other := compared.load("meta", config.images.size))
        check_fit(config, other, attacks)
        reference["reference"] = compared.addresses["target"]
    ranking, masks = _read_ranking(config, target), config.masks
    if ranking is not None and masks.ranking is not None:
        masks = masks.model_copy(update={"ranking": Location.of(masks.ranking).uri})
    resolved = config.model_copy(
        update={
            "attacks": {name: resolve_options(attack) for name, attack in attacks.items()},
            "leakage": resolve_leakage(config.leakage, attacks),
            "masks": masks,
            # Absolute: workers, and readers of run.json, have other working directories.
            **{name: Location.of(at).uri for name in ("out", "shards", "manifest") if (at := getattr(config, name))},
            # Pinned too: a branch may move while the run goes on.
            **weights.addresses,
            **reference,
        }
    )
    return Inputs(resolved, shards.folder, shards.manifest, split, weights, target, attacks, ranking, procedure)


def _read_ranking(config: AuditConfig, target: Target) -> np.ndarray | None:
    """The mean influences of the finished run whose ranking is the one mask for all samples, (D,) float64."""
    if config.masks.ranking in (None, CALIBRATED):
        return None
    other = RunDirectory(Location.of(config.masks.ranking))
    shape = other.read_record().latent_shape
    if shape != target.latent_shape:
        raise UsageError(f"masks.ranking: the latents of {other.root} are {shape}, the target's {target.latent_shape}")
    table = other.reduction().read_ranking().sort_by("dimension")
    return table["mean"].to_numpy()


def check_fit(config: AuditConfig, target: Target, attacks: dict[str, Attack]) -> None:
    """Raise UsageError if the target cannot do what the configuration asks for."""
    steps, dimensions = len(target.alphas_cumprod), math.prod(target.latent_shape)
    for name, attack in attacks.items():
        if not attack.timesteps:
            raise UsageError(f"attacks.{name}.timesteps: give at least one")
        if bad := [t for t in attack.evaluated if not 0 <= t < steps]:
            raise UsageError(
                f"attacks.{name}.timesteps: {bad[0]} is evaluated, and the target's timesteps are 0 to {steps - 1}"
            )
        if bad := [t for t in attack.evaluated if target.alphas_cumprod[t] == 0]:
            raise UsageError(f"attacks.{name}.timesteps: at {bad[0]} the target sees nothing but noise")
    if config.conditioning == "none":
        target.condition([None], [None])
    elif isinstance(config.conditioning, int) and (reason := target.refusal(None, config.conditioning)):
        raise UsageError(f"conditioning = {config.conditioning} is not a class of the target: {reason}")
    if config.masks.bins > dimensions:
        raise UsageError(f"masks.bins = {config.masks.bins} is more than the latent's {dimensions} dimensions")


def check_reference(target: Target, reference: Target) -> None:
    """Raise UsageError if draws and timesteps of the two would not be the same.

    Autoencoders may differ: each model is asked about its own latent of an image.
    """
    pairs = {
        "images": (reference.image_size, target.image_size),
        "latents": (reference.latent_shape, target.latent_shape),
        "training timesteps": (len(reference.alphas_cumprod), len(target.alphas_cumprod)),
    }
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise UsageError(f"reference: its {what} are {theirs}, the target's {ours}; give a model of the same shape")
    apart = (reference.alphas_cumprod - target.alphas_cumprod).abs()
    t = int(apart.argmax())
    if apart[t] > SCHEDULES_DIFFER:
        raise UsageError(
            "reference: its noise schedule is another than the target's: alpha_bar at timestep "
            f"{t} is {reference.alphas_cumprod[t]:.4g}, not {target.alphas_cumprod[t]:.4g}"
        )


def count_sides(inputs: Inputs) -> tuple[int, int]:
    """How many members and held-out samples there are; of a split file, how many keys, without looking them up."""
    if inputs.split is not None:
        members, heldout = len(inputs.split.members), len(inputs.split.heldout)
    else:
        tasks = by_folder(inputs)
        members = sum(map(members_of, tasks))
        heldout = sum(map(wanted, tasks)) - members
    limit = inputs.config.limit or members + heldout
    return min(members, limit), min(heldout, limit)


def has_both_sides(inputs: Inputs) -> bool:
    """Whether there are held-out samples to compare members with.

    Raises:
        UsageError: There are no members; neither held-out samples nor a reference model; or too few of a side.
    """
    members, heldout = count_sides(inputs)
    if not members:
        raise UsageError(f"{inputs.folder}: an audit needs members, and there are none")
    if not heldout and inputs.config.reference is None:
        raise UsageError(
            f"{inputs.folder}: there are no held-out samples to compare members with; give some, which is evidence, or "
            "--reference MODEL for scores relative to another model, which is none of membership"
        )
    if heldout and min(members, heldout) < FEWEST:
        raise UsageError(
            f"{inputs.folder}: {members} members and {heldout} held-out samples; {FEWEST} of each are needed"
        )
    return heldout > 0


def wanted(task: ReadTask) -> int:
    """How many samples of a shard are audited."""
    return task.shard.samples if isinstance(task.membership, bool) else len(task.membership)


def members_of(task: ReadTask) -> int:
    """How many samples of a shard are members."""
    return task.shard.samples * task.membership if isinstance(task.membership, bool) else sum(task.membership.values())


def by_folder(inputs: Inputs) -> tuple[ReadTask, ...]:
    """The shards, with membership by their folders.

    Raises:
        UsageError: A shard lies in neither of the two folders.
    """
    tasks = []
    for shard in inputs.manifest.shards:
        if shard.side not in (MEMBERS, HELDOUT):
            raise UsageError(
                f"{inputs.folder}/{shard.name} is neither in {MEMBERS}/ nor in {HELDOUT}/; give --split FILE"
            )
        tasks.append(ReadTask(folder=inputs.folder.uri, shard=shard, membership=shard.side == MEMBERS))
    return tuple(tasks)
