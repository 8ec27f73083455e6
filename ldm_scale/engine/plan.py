"""What an audit will do, settled before any actor starts: who is a member, and what the run record says."""

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import ray

from ldm_scale.data.manifest import ShardInfo
from ldm_scale.data.shards import read_shard
from ldm_scale.data.split import check_keys, first_of_each_side, keyed_order
from ldm_scale.data.task import ReadTask
from ldm_scale.files.parts import Expected
from ldm_scale.files.rundir import RunDirectory, RunRecord
from ldm_scale.files.storage import Location
from ldm_scale.inputs import Inputs, by_folder, members_of, wanted
from ldm_scale.schema import BLIND

# Shards of each side that a quick look takes its samples from, if there are as many.
SPREAD = 8
VERSIONED = ("ldm_scale", "ray", "torch", "diffusers", "numpy", "pyarrow", "scikit-learn")


@dataclass(frozen=True)
class AuditPlan:
    """The run record, every shard with the samples that are expected of it, and another run's ranking, if any."""

    record: RunRecord
    tasks: tuple[ReadTask, ...]
    image_size: int
    ranking: np.ndarray | None

    def split(self) -> dict[str, dict[str, bool]]:
        """Who is a member, by shard stem and key, if a split file says so."""
        return {task.shard.stem: task.membership for task in self.tasks if isinstance(task.membership, dict)}

    def expected(self) -> dict[str, int]:
        """Samples wanted of each shard, by its stem."""
        return {task.shard.stem: wanted(task) for task in self.tasks}


def plan_audit(inputs: Inputs, run: RunDirectory) -> AuditPlan:
    """Settle who is a member and what the run record says.

    run: its directory, which keeps what a split file says of the shards once the run has begun.
    Needs a connected Ray if there is a split file or a limit, or a shard that holds no samples by the manifest.

    Raises:
        RunError: A shard that is read for that is not what the manifest says.
    """
    # Nothing is expected of shards that hold no samples by the manifest: nobody else would read them.
    if empty := [shard for shard in inputs.manifest.shards if not shard.samples]:
        ray.get([_shard_keys.remote(inputs.folder, shard) for shard in empty])
    if inputs.split is None and inputs.config.limit is None:
        tasks = by_folder(inputs)
    else:
        tasks = _by_key(inputs, run.read_split() or _wanted(inputs))
    members = {task.shard.stem: members_of(task) for task in tasks}
    heldout = {task.shard.stem: wanted(task) - members[task.shard.stem] for task in tasks}
    earlier = run.earlier()
    record = RunRecord(
        fingerprint=inputs.fingerprint,
        science=inputs.science,
        config=inputs.config,
        latent_shape=inputs.target.latent_shape,
        timesteps={name: attack.timesteps for name, attack in inputs.attacks.items()},
        expected=Expected(members=members, heldout=heldout),
        versions={name: version(name) for name in VERSIONED},
        preset=None if inputs.procedure is None else "published",
        departures=inputs.departures,
        fixed=datetime.now(UTC).replace(microsecond=0),
        # Its rows are alike, whichever version goes on with them.
        blind=BLIND if earlier is None else earlier.blind,
    )
    return AuditPlan(record, tasks, inputs.target.image_size, inputs.ranking)


@ray.remote(num_cpus=0.5)
def _shard_keys(folder: Location, shard: ShardInfo) -> list[str]:
    return [sample.key for sample in read_shard(folder, shard)]


def _wanted(inputs: Inputs) -> dict[str, dict[str, bool]]:
    """Who is audited, and a member, by shard and key: what a split file or the folders say, as far as a limit goes."""
    limit = inputs.config.limit
    membership = _look_few_up(inputs) if inputs.split is None else _look_up(inputs)
    return membership if limit is None else first_of_each_side(membership, limit, inputs.config.seed)


def _look_few_up(inputs: Inputs) -> dict[str, dict[str, bool]]:
    """Who is a member of the first shards, in keyed order, that hold as many of each side as the limit asks for.

    At least SPREAD shards of each side: in one, samples may lie by class or by time.
    """
    limit, seed = inputs.config.limit, inputs.config.seed
    assert limit is not None
    sides: dict[bool, list[ShardInfo]] = {True: [], False: []}
    for task in sorted(by_folder(inputs), key=lambda task: keyed_order(seed, task.shard.stem)):
        read = sides[bool(task.membership)]
        if len(read) < SPREAD or sum(shard.samples for shard in read) < limit:
            read.append(task.shard)
    membership = [(shard, side) for side, read in sides.items() for shard in read]
    listing = ray.get([_shard_keys.remote(inputs.folder, shard) for shard, _ in membership])
    return {shard.stem: dict.fromkeys(keys, side) for (shard, side), keys in zip(membership, listing, strict=True)}


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


def _by_key(inputs: Inputs, split: dict[str, dict[str, bool]]) -> tuple[ReadTask, ...]:
    return tuple(
        ReadTask(folder=inputs.folder.uri, shard=shard, membership=listed)
        for shard in inputs.manifest.shards
        if (listed := split.get(shard.stem))
    )
