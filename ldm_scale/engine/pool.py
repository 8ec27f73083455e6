"""The pool of auditors that images stream through, and that grows with the cluster."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray._private.state import actors
from ray.data import ActorPoolStrategy, Dataset

from ldm_scale.config.audit import ComputeConfig
from ldm_scale.device.choose import choose_device
from ldm_scale.engine.session import cluster_gpus
from ldm_scale.files.rundir import RunRecord


@dataclass(frozen=True)
class Pool:
    """On which device auditors run, and how many: at least, at first and at most; held: by the cluster as it is now."""

    device: Literal["cpu", "cuda"]
    least: int
    initial: int
    most: int
    held: int

    def __str__(self) -> str:
        now = f"the cluster holds {self.held} now"
        return f"device {self.device}, auditors: {self.least} to {self.most}, {self.initial} at first; {now}"


def plan_pool(compute: ComputeConfig, samples: int) -> Pool:
    """The pool for so many samples: no more auditors than there are batches.

    Raises:
        UsageError: cuda is asked for, no number of GPUs is, and the cluster has none.
    """
    device = find_device(compute)
    # One a GPU, or one a CPU.
    holds = cluster_gpus() / compute.gpus_per_actor if device == "cuda" else ray.cluster_resources().get("CPU", 0)
    held = int(holds)
    least, most = compute.actors or _auditors(compute) or (1, held)
    most = max(1, min(most, math.ceil(samples / compute.batch)))
    least = max(1, min(least, most))
    return Pool(device, least, min(max(compute.initial_actors or held, least), most), most, held)


def find_device(compute: ComputeConfig) -> Literal["cpu", "cuda"]:
    """The device of auditors; GPUs that are asked for by number may come later.

    Raises UsageError if cuda is asked for, no number is, and the cluster has no GPU.
    """
    return choose_device(compute.device, cluster_gpus(), grows=compute.gpus is not None)


def _auditors(compute: ComputeConfig) -> tuple[int, int] | None:
    if compute.gpus is None:
        return None
    least, most = compute.gpus
    return math.ceil(least / compute.gpus_per_actor), max(1, int(most / compute.gpus_per_actor))


def pool_size(actor: type) -> int:
    """How many actors of this job's pool are alive."""
    job = ray.get_runtime_context().get_job_id()
    alive = actors(actor_state_name="ALIVE").values()
    return sum(found["JobID"] == job and actor.__name__ in found["ActorClassName"] for found in alive)


def audit_images(
    images: Dataset, pool: Pool, compute: ComputeConfig, actor: type, record: RunRecord, *arguments: Any
) -> Dataset:
    """Batches of decoded images through actor(record, device, *arguments).

    All of encode, geometry and attacks in one actor, so that no two pools compete for a GPU.
    """
    return images.map_batches(
        actor,
        fn_constructor_args=(record, pool.device, *arguments),
        batch_size=compute.batch,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            min_size=pool.least,
            initial_size=pool.initial,
            max_size=pool.most,
            # An actor computes one batch at a time, but takes in the next and hands on the last one meanwhile. No more
            # wait in it: they would be computed for nothing after the driver's death.
            max_concurrent_calls_per_actor=2,
            max_tasks_in_flight_per_actor=2,
            # Else Ray lets no call begin before the last one has ended: the actor itself says what may not overlap.
            enable_true_multi_threading=True,
        ),
        num_cpus=compute.cpus_per_actor,
        num_gpus=compute.gpus_per_actor if pool.device == "cuda" else 0,
    )
