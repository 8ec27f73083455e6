"""Train a target on the members of a shard folder with Ray Train; the same command uses one CPU or many GPUs."""

import itertools
import json
import math
from importlib.metadata import version
from typing import Any

import numpy as np
import ray
import ray.train
import torch
from ray.data import DataContext
from ray.train import TrainingFailedError
from ray.train.torch import TorchTrainer

from ldm_scale.config.audit import ComputeConfig
from ldm_scale.config.train import TrainConfig
from ldm_scale.data.addresses import Shards, open_shards
from ldm_scale.data.manifest import Manifest
from ldm_scale.data.split import MEMBERS
from ldm_scale.data.task import ReadTask
from ldm_scale.device.choose import choose_device
from ldm_scale.engine.blame import find_own_error
from ldm_scale.engine.progress import relay
from ldm_scale.engine.reading import stream_images
from ldm_scale.engine.session import cluster_gpus, session
from ldm_scale.engine.train_worker import SCALE_SAMPLES, TARGET, Job, train_worker
from ldm_scale.errors import RunError, UsageError, one_line
from ldm_scale.files.digests import differences
from ldm_scale.files.storage import Location
from ldm_scale.terminal import say
from ldm_scale.training.models import check_base, find_sources, make_models, source_digest
from ldm_scale.training.saving import RECORD

# Ray Train's folder of checkpoints.
RUN = "train"
VERSIONED = ("ldm_scale", "ray", "torch", "diffusers", "transformers", "peft")


def _member_shards(shards: Shards) -> list[ReadTask]:
    members = [shard for shard in shards.manifest.shards if shard.side == MEMBERS]
    if not members:
        raise UsageError(f"{shards.folder} has no {MEMBERS}/ shards to train on")
    return [ReadTask(folder=shards.folder.uri, shard=shard, membership=True) for shard in members]


def _epochs(config: TrainConfig, shards: list[ReadTask], position: int) -> list[ReadTask]:
    """Every shard once an epoch, in an order seeded anew at each restart, for as many epochs as all stages take.

    Epochs are numbered from the one that step `position` is in.
    """
    members = sum(task.shard.samples for task in shards)
    stages = config.stages().values()
    # One batch more a stage is what a worker holds when a stage ends.
    wanted = min(SCALE_SAMPLES, members) + sum((stage.steps(members) + 1) * stage.batch for stage in stages)
    # One epoch more fills what shuffling and dropped partial batches leave over, on each of the workers.
    epochs = math.ceil(wanted / members) + 1 + config.workers
    order = np.random.default_rng([config.seed, position])
    first = _taken(config, members, position) // members
    return [
        shards[index].model_copy(update={"epoch": first + epoch})
        for epoch in range(epochs)
        for index in order.permutation(len(shards))
    ]


def _taken(config: TrainConfig, members: int, position: int) -> int:
    """Samples that the first `position` steps take."""
    samples = 0
    for stage in config.stages().values():
        steps = min(position, stage.steps(members))
        samples += steps * stage.batch
        position -= steps
    return samples


def run_training(config: TrainConfig) -> None:
    """Train a target on the members of `config.shards` and write it to `config.out`.

    It goes on from the last checkpoint if a worker failed or the same training was stopped before.

    Raises:
        UsageError: Shards, models or the output folder cannot be used; nothing is overwritten.
        RunError: A member cannot be trained on, or workers fail too often.
    """
    out = Location.of(config.out)
    partial = Location(f"{out}.partial")
    shards = open_shards(config.shards, config.manifest)
    members, manifest = _member_shards(shards), shards.manifest
    config = find_sources(config)
    job = _make_job(config, manifest, members)
    identity = {name: value for name, value in job.record.items() if name != "versions"} | {"shards": manifest.sha256}
    _check_free(identity, out, partial)
    out.check_place()
    with session():
        device = choose_device(config.device, cluster_gpus())
        _check_precision(config, device)
        _begin(identity, partial)
        checkpoint = _fit(job, members, partial, device)
        out.make_dir()
        out.copy_from(checkpoint.filesystem, f"{checkpoint.path}/{TARGET}")
        partial.delete_dir()


def _make_job(config: TrainConfig, manifest: Manifest, shards: list[ReadTask]) -> Job:
    """Everything the workers need, checked before any of them starts."""
    check_base(config)
    make_models(config, len(manifest.classes), torch.device("cpu"))
    record = {
        "recipe": config.recipe(),
        "split_sha256": manifest.split_sha256,
        "source_sha256": source_digest(config),
        "classes": list(manifest.classes) if config.denoiser.classes else [],
        "versions": {name: version(name) for name in VERSIONED},
    }
    return Job(config, sum(task.shard.samples for task in shards), len(manifest.classes), record)


def _check_free(identity: dict[str, Any], out: Location, partial: Location) -> None:
    """Raise UsageError if other files are in the way, or the checkpoints are another training's.

    The target is copied from the checkpoints' folder at the end, so while that is there, what `out` holds is an
    unfinished copy.
    """
    record = partial / RECORD
    if record.is_file():
        if changes := differences(json.loads(record.read_bytes()), identity):
            raise UsageError(
                f"{partial} holds another training ({'; '.join(changes)}); give a new out folder, or delete it"
            )
        return
    for place in (out, partial):
        if not place.is_empty():
            raise UsageError(f"{place} is not empty; give a new folder, nothing is overwritten")


def _check_precision(config: TrainConfig, device: str) -> None:
    if device == "cpu" and config.precision == "float16":
        raise UsageError("precision float16 works on cuda only; take bfloat16 or float32")


def _begin(identity: dict[str, Any], partial: Location) -> None:
    """Note in the checkpoints' folder what is trained there."""
    if not (partial / RECORD).is_file():
        partial.make_dir()
        (partial / RECORD).create(json.dumps(identity, indent=1).encode())


def _fit(job: Job, shards: list[ReadTask], partial: Location, device: str) -> ray.train.Checkpoint:
    """Train from the last checkpoint on, again if workers fail; the checkpoint that holds the target.

    Ray Train could do the latter itself, but would try again even if a sample is at fault.
    """
    for failures in itertools.count(1):
        try:
            return _attempt(job, shards, partial, device)
        except TrainingFailedError as error:
            causes = list(getattr(error, "worker_failures", {}).values()) or [error]
            own = find_own_error(error)
            if own is not None:
                raise own from error
            said = f"{type(causes[0]).__name__}: {one_line(causes[0])}"
            if failures > job.config.failures:
                raise RunError(
                    f"training failed ({said}); the same command again goes on from its checkpoint"
                ) from error
            say(f"a worker failed ({said}); going on from the last checkpoint")
    raise AssertionError


def _attempt(job: Job, shards: list[ReadTask], partial: Location, device: str) -> ray.train.Checkpoint:
    config = job.config
    # The same seed reads the same images in the same order.
    DataContext.get_current().execution_options.preserve_order = True
    order = _epochs(config, shards, _position(partial))
    with relay() as progress:
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"job": job, "progress": progress, "checkpoints": partial / RUN},
            scaling_config=ray.train.ScalingConfig(num_workers=config.workers, use_gpu=device == "cuda"),
            run_config=ray.train.RunConfig(
                name=RUN,
                storage_path=partial.uri,
                # A run of this name and place begins with its last checkpoint.
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            ),
            datasets={"members": stream_images(order, config.images, config.size, ComputeConfig())},
        )
        return trainer.fit().checkpoint


def _position(partial: Location) -> int:
    """The steps that the last checkpoint holds."""
    try:
        metrics = ray.train.Result.from_path(f"{partial}/{RUN}").metrics
    except RuntimeError:
        # Not begun yet.
        return 0
    return metrics["position"] if metrics else 0
