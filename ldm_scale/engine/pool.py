"""The pool of auditors that images stream through: one actor a GPU, or one a CPU."""

from typing import Any

import ray
import torch
from ray.data import ActorPoolStrategy, Dataset

from ldm_scale.auditor import Auditor, Calibration
from ldm_scale.config import ComputeConfig
from ldm_scale.engine.progress import say
from ldm_scale.engine.session import resolve_device
from ldm_scale.rundir import RunRecord
from ldm_scale.targets import fetch_weights


def load_auditor(record: RunRecord, device: str, calibration: Calibration | None = None) -> Auditor:
    """An auditor for an actor of the pool.

    Raises RunError where the weights on the actor's node are not those that the run began with.
    """
    if device == "cpu":
        # As many auditors as CPUs: more threads than one each would only contend.
        torch.set_num_threads(1)
    config = record.config
    weights = fetch_weights(config.target, config.lora, config.lora_scale)
    weights.check(record.science)
    return Auditor(weights.load(device, config.images.size), config, calibration)


def pool(images: Dataset, record: RunRecord, actor: type, *arguments: Any) -> Dataset:
    """Batches of decoded images through actor(record, device, *arguments).

    All of encode, geometry and attacks in one actor, so that no two pools compete for a GPU.
    """
    compute = record.config.compute
    device = resolve_device(compute.device)
    most = compute.actors or _pool_size(compute, device)
    say(f"device {device}, up to {most} auditors")
    return images.map_batches(
        actor,
        fn_constructor_args=(record, device, *arguments),
        batch_size=compute.batch_size,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=min(compute.min_actors, most), max_size=most, initial_size=most),
        num_cpus=compute.cpus_per_actor,
        num_gpus=compute.gpus_per_actor if device == "cuda" else 0,
    )


def _pool_size(compute: ComputeConfig, device: str) -> int:
    resources = ray.cluster_resources()
    return max(1, int(resources["GPU"] / compute.gpus_per_actor) if device == "cuda" else int(resources["CPU"]))
