"""Train a target on the members of a shard folder with Ray Train; the same command uses one CPU or many GPUs."""

import itertools
import json
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import ray
import ray.train
import torch
from ray.train import TrainingFailedError
from ray.train.torch import TorchTrainer

from ldm_scale.config.train import TrainConfig
from ldm_scale.data.addresses import open_shards
from ldm_scale.data.manifest import Manifest
from ldm_scale.data.task import ReadTask
from ldm_scale.device.choose import choose_device
from ldm_scale.engine.blame import find_own_error
from ldm_scale.engine.members import member_shards
from ldm_scale.engine.progress import relay
from ldm_scale.engine.session import cluster_gpus, session
from ldm_scale.engine.train_job import Job
from ldm_scale.engine.train_worker import TARGET, train_worker
from ldm_scale.errors import RunError, UsageError, one_line, shaped
from ldm_scale.files.digests import differences
from ldm_scale.files.storage import Location
from ldm_scale.terminal import say
from ldm_scale.training.models import check_base, find_sources, make_models, source_digest
from ldm_scale.training.saving import RECORD

# Ray Train's folder of checkpoints.
RUN = "train"
VERSIONED = ("ldm_scale", "ray", "torch", "diffusers", "transformers", "peft")


def run_training(config: TrainConfig) -> None:
    """Train a target on the members of `config.shards` and write it to `config.out`.

    It goes on from the last checkpoint if a worker failed or the same training was stopped before. If targets on the
    way are audited, and nothing but audits is left, it is done.

    Raises:
        UsageError: Shards, models or the output folder cannot be used; nothing is overwritten.
        RunError: A member cannot be trained on, or workers fail too often.
    """
    out = Location.of(config.out)
    partial = Location(f"{out}.partial")
    shards = open_shards(config.shards, config.manifest)
    members, manifest = member_shards(shards), shards.manifest
    # Workers have another working directory.
    config = find_sources(config.model_copy(update={"out": str(out)}))
    job = _make_job(config, manifest, members)
    identity = {name: value for name, value in job.record.items() if name != "versions"}
    if config.audit_every is not None and _is_trained(identity, out, partial, config.kept(config.audit_every)):
        return
    _check_free(identity, out, partial)
    out.check_place()
    with session():
        device = choose_device(config.device, cluster_gpus())
        if device == "cpu" and config.precision == "float16":
            raise UsageError("precision float16 works on cuda only; take bfloat16 or float32")
        if not (partial / RECORD).is_file():
            (partial / RECORD).create(json.dumps(identity, indent=1).encode())
        job = replace(job, cpus=_cpus(config, device))
        _tell_of_waiting(config.workers, _reserved(job, device))
        checkpoint = _fit(job, partial, device)
        out.copy_from(checkpoint.filesystem, f"{checkpoint.path}/{TARGET}")
        partial.delete_dir()


def _make_job(config: TrainConfig, manifest: Manifest, shards: list[ReadTask]) -> Job:
    """Everything the workers need, checked before any of them starts."""
    cpu = torch.device("cpu")
    check_base(config, cpu)
    models = make_models(config, len(manifest.classes), cpu)
    record = {
        "recipe": config.recipe(),
        # Weights of other groups have the same shapes: nothing else would tell them apart.
        "groups": {name: getattr(models, name).config.get("norm_num_groups") for name in config.stages()},
        "split_sha256": manifest.split_sha256,
        "shards": manifest.sha256,
        "source_sha256": source_digest(config),
        "classes": list(manifest.classes) if config.denoiser.classes else [],
        "versions": {name: version(name) for name in VERSIONED},
    }
    job = Job(config, tuple(shards), len(manifest.classes), record)
    steps = config.denoiser.steps(job.count)
    if config.audit_every is not None and config.audit_every >= steps:
        raise UsageError(f"audit_every = {config.audit_every}: the denoiser is trained for {steps} steps in all")
    if job.count < config.workers:
        raise UsageError(f"workers = {config.workers}: there are {job.count} members to share")
    return job


def _is_trained(identity: dict[str, Any], out: Location, partial: Location, kept: str) -> bool:
    """Whether `out` holds the target of this very training already, and the first target on the way is kept, too."""
    if (partial / RECORD).is_file() or not ((out / RECORD).is_file() and (Location.of(kept) / RECORD).is_file()):
        return False
    with shaped(f"{out / RECORD} is no record of a training; give a new out folder"):
        trained = json.loads((out / RECORD).read_bytes())
        return not differences({name: trained.get(name) for name in identity}, identity)


def _check_free(identity: dict[str, Any], out: Location, partial: Location) -> None:
    """Raise UsageError if other files are in the way, or the checkpoints are another training's.

    The target is copied from the checkpoints' folder at the end, so while that is there, what `out` holds is an
    unfinished copy.
    """
    record = partial / RECORD
    if record.is_file():
        # Older records name no groups.
        with shaped(f"{record} is no record of a training; delete {partial}, or give a new out folder"):
            begun = {"groups": identity["groups"], **json.loads(record.read_bytes())}
        if changes := differences(begun, identity):
            raise UsageError(
                f"{partial} holds another training ({'; '.join(changes)}); give a new out folder, or delete it"
            )
        return
    for place in (out, partial):
        if not place.is_empty():
            raise UsageError(f"{place} is not empty; give a new folder, nothing is overwritten")


def _fit(job: Job, partial: Location, device: str) -> ray.train.Checkpoint:
    """Train from the last checkpoint on, again if workers fail; the checkpoint that holds the target.

    Ray Train could do the latter itself, but would try again even if a sample is at fault.
    """
    for failures in itertools.count(1):
        try:
            return _attempt(job, partial, device)
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


def _cpus(config: TrainConfig, device: str) -> int:
    """CPUs that each worker reserves: those asked for, or on cpu the most that all nodes have for each of them."""
    if config.cpus is not None or device == "cuda":
        return config.cpus or 1
    nodes = [int(node.get("CPU", 0)) for node in _nodes()]
    shares = range(1, max(nodes, default=0) + 1)
    return max((share for share in shares if sum(cpus // share for cpus in nodes) >= config.workers), default=1)


def _nodes() -> list[dict[str, float]]:
    """The resources of each node that is there."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _reserved(job: Job, device: str) -> dict[str, float]:
    """What each worker reserves."""
    return {"CPU": job.cpus, **({"GPU": 1} if device == "cuda" else {})}


def _tell_of_waiting(workers: int, reserved: dict[str, float]) -> None:
    """Say that workers wait, for ever if no node comes, if the nodes do not hold all of them."""
    room = sum(min(int(node.get(name, 0) // amount) for name, amount in reserved.items()) for node in _nodes())
    if room < workers:
        each = " and ".join(f"{amount} {name}" for name, amount in reserved.items())
        say(
            f"workers = {workers}: Ray's nodes hold {room} of them, which reserve {each} each; waiting for more nodes. "
            "If none will come, stop this and give fewer workers or cpus"
        )


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Ctrl-C interrupts the training as any other command: Ray's own handler would end the process with status 0."""

    def _register_sigint_handler(self, controller: Any) -> None:
        pass


def _attempt(job: Job, partial: Location, device: str) -> ray.train.Checkpoint:
    with relay() as progress:
        trainer = _Trainer(
            train_worker,
            train_loop_config={"job": job, "progress": progress, "checkpoints": partial / RUN},
            scaling_config=ray.train.ScalingConfig(
                num_workers=job.config.workers,
                use_gpu=device == "cuda",
                resources_per_worker=_reserved(job, device),
            ),
            run_config=ray.train.RunConfig(
                name=RUN,
                storage_path=partial.uri,
                # A run of this name and place begins with its last checkpoint.
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            ),
        )
        return trainer.fit().checkpoint
