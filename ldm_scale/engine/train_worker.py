"""What a Ray Train worker does: the stages of a training on its part of the members, from the last checkpoint on."""

import copy
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import ray.train
import torch
from pyarrow.fs import LocalFileSystem
from ray._private.utils import estimate_available_memory
from ray.train.torch import get_device, prepare_model
from ray.util.queue import Queue
from torch import nn

from ldm_scale.config.train import StageConfig
from ldm_scale.engine.members import Members, part_of
from ldm_scale.engine.train_job import Job
from ldm_scale.errors import RunError
from ldm_scale.files.storage import Location
from ldm_scale.targets.autoencoder import make_autoencoder
from ldm_scale.training.losses import AutoencoderLoss, DenoiserLoss
from ldm_scale.training.models import Models, make_models
from ldm_scale.training.networks import set_scaling_factor
from ldm_scale.training.optimiser import Optimiser
from ldm_scale.training.saving import save_target
from ldm_scale.training.tables import Images, Latents, Table, collect, posteriors

# Samples that fix the latents' scale between the two stages.
SCALE_SAMPLES = 1024
# Seconds between progress lines, if the twentieth part of a stage takes longer.
SAY_SECONDS = 60.0
# Steps after which several workers agree on whether a checkpoint is due.
AGREED_STEPS = 10
TARGET = "target"
_STATE = "state.pt"


@dataclass
class TrainProgress:
    """How far a training is, as its checkpoints hold it: steps done of the stage and of all, and the weights."""

    stage: str | None
    step: int = 0
    position: int = 0
    resumed: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    autoencoder: dict[str, Any] | None = None
    optimiser: dict[str, Any] | None = None


def _restore(first_stage: str) -> TrainProgress:
    """The last checkpoint's progress, or the beginning."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return TrainProgress(first_stage)
    with checkpoint.as_directory() as folder:
        progress = TrainProgress(**torch.load(Path(folder) / _STATE, map_location="cpu", weights_only=True))
    progress.resumed += 1
    return progress


def _report(progress: TrainProgress, rank: int, folder: Path, checkpoints: Location) -> None:
    """A checkpoint of the first worker, among the others; a barrier for all."""

    def store(checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        """Arrow, by which Ray copies, leaves out the files that S3 did not take, without an error."""
        (checkpoints / name).copy_from(checkpoint.filesystem, checkpoint.path)
        return ray.train.Checkpoint(f"{checkpoints}/{name}")

    metrics = {"position": progress.position}
    if rank > 0:
        ray.train.report(metrics)
        return
    torch.save(vars(progress), folder / _STATE)
    ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder), checkpoint_upload_fn=store)


class _Lines:
    """Progress lines of one stage, every twentieth part of it and at least once a minute."""

    def __init__(self, name: str, steps: int, batch: int, queue: Queue | None) -> None:
        self._name, self._steps, self._batch, self._queue = name, steps, batch, queue
        self._recent: list[torch.Tensor] = []
        self._since = time.monotonic()
        self.mean = math.nan

    def add(self, step: int, loss: torch.Tensor) -> None:
        """Note a step's loss.

        Raises:
            RunError: The losses since the last line are not finite.
        """
        self._recent.append(loss)
        seconds = time.monotonic() - self._since
        if step % max(1, self._steps // 20) and step < self._steps and seconds < SAY_SECONDS:
            return
        self.mean = torch.stack(self._recent).mean().item()
        if not math.isfinite(self.mean):
            raise RunError(f"{self._name}: the loss is {self.mean} at step {step}; lower {self._name}.rate")
        if self._queue is not None:
            self._queue.put(self._line(step, seconds / len(self._recent)))
        self._recent, self._since = [], time.monotonic()

    def _line(self, step: int, seconds: float) -> str:
        minutes = math.ceil((self._steps - step) * seconds / 60)
        return (
            f"{self._name}: step {step} of {self._steps}, loss {self.mean:.4f}, "
            f"{self._batch / seconds:.0f} images/s, {minutes} min left"
        )


class _Training:
    """One worker's way through the stages."""

    def __init__(self, job: Job, queue: Queue | None, checkpoints: Location) -> None:
        context = ray.train.get_context()
        self._job, self._checkpoints = job, checkpoints
        self._workers, self._rank = context.get_world_size(), context.get_world_rank()
        # ray.train.report costs seconds each; lines of the first worker go straight to the driver.
        self._queue = queue if self._rank == 0 else None
        self._progress = _restore(next(iter(job.config.stages())))
        self._saved = time.monotonic()

    def run(self) -> None:
        """Train what is left, and report the target with the last checkpoint."""
        config, progress = self._job.config, self._progress
        if progress.stage is None:
            return
        torch.set_num_threads(self._job.cpus)
        torch.manual_seed(config.seed)
        models = make_models(config, self._job.classes, get_device())
        if progress.autoencoder is not None:
            models.autoencoder.load_state_dict(progress.autoencoder["weights"])
            models.autoencoder.register_to_config(scaling_factor=progress.autoencoder["scaling_factor"])
        name = f"worker {self._rank} of {self._workers}"
        part = part_of(self._job.members, self._rank, self._workers)
        members = Members(config, part, models.condition, name, self._job.cpus)
        # Other random numbers on each worker, and none again after a checkpoint.
        torch.manual_seed(config.seed + 1 + self._rank + self._workers * progress.position)
        images = None
        if progress.stage == "autoencoder":
            images = Images(collect(members.read(), members.count, self._memory()))
            self._train_autoencoder(models, members, images)
            self._checkpoint()
        self._train_denoiser(models, members, images)
        self._report_target(models)

    def _memory(self) -> int:
        """Bytes that a table of this worker may take: half of what is free, shared with the node's other workers."""
        return int(estimate_available_memory()) // 2 // ray.train.get_context().get_local_world_size()

    def _train_autoencoder(self, models: Models, members: Members, images: Images) -> None:
        config, autoencoder = self._job.config.autoencoder, models.autoencoder
        self._stage("autoencoder", autoencoder, AutoencoderLoss(autoencoder, config.kl_weight), members, images, config)
        autoencoder.eval()
        scale = self._latents_scale(models, members, images) if config.scaled else 1.0
        autoencoder.register_to_config(scaling_factor=scale)
        self._progress.autoencoder = {"weights": autoencoder.state_dict(), "scaling_factor": scale}
        self._progress.stage = "denoiser"

    def _latents_scale(self, models: Models, members: Members, images: Images) -> float:
        """What gives the latents of some samples a deviation of 1; all workers take what the first one finds."""
        some = next(members.batches(images, "scale", min(SCALE_SAMPLES, members.count), 0, get_device())).inputs
        set_scaling_factor(models.autoencoder, some)
        scale = torch.tensor(models.autoencoder.config.scaling_factor, dtype=torch.float64, device=get_device())
        if self._workers > 1:
            torch.distributed.broadcast(scale, src=0)
        return scale.item()

    def _train_denoiser(self, models: Models, members: Members, images: Images | None) -> None:
        config = self._job.config.denoiser
        latents = self._encode(models, members, images)
        loss = DenoiserLoss(models.denoiser, models.schedule, models.condition)
        keep = partial(self._keep, models)
        self._stage("denoiser", models.denoiser, loss, members, latents, config, config.ema, keep)
        self._progress.stage = None

    def _keep(self, models: Models, optimiser: Optimiser) -> None:
        """Store the target of this step, if it is one of those that are kept."""
        step, every = self._progress.step, self._job.config.audit_every
        if self._rank > 0 or every is None or step % every:
            return
        # Storing converts the networks.
        models = copy.deepcopy(models)
        optimiser.average_into(models.denoiser)
        with tempfile.TemporaryDirectory() as folder:
            save_target(Path(folder), models, self._job.config.half, {**self._job.record, "step": step})
            Location.of(self._job.config.kept(step)).copy_from(LocalFileSystem(), folder)

    def _encode(self, models: Models, members: Members, images: Images | None) -> Latents:
        """The latents of all samples: the autoencoder is frozen, so they are made once."""
        config = self._job.config
        chunks = members.read() if images is None else iter([images.pixels])
        # No more at once than are trained on.
        pixels = (some for chunk in chunks for some in chunk.split(self._samples(config.denoiser)))
        found = posteriors(
            pixels, make_autoencoder(models.autoencoder), config.flip, config.denoiser.latent == "sample", get_device()
        )
        return Latents(collect(found, members.count, self._memory()))

    def _samples(self, config: StageConfig) -> int:
        """Samples that this worker computes at once."""
        return config.batch // self._workers // config.accumulate

    def _stage(
        self,
        name: str,
        network: nn.Module,
        loss: nn.Module,
        members: Members,
        table: Table,
        config: StageConfig,
        ema: float | None = None,
        keep: Callable[[Optimiser], None] | None = None,
    ) -> None:
        """Train one network to its stage's end; its last loss goes into the progress. keep: asked after each step."""
        progress, steps = self._progress, config.steps(self._job.count)
        optimiser = Optimiser(network, prepare_model(loss), steps, config, self._job.config.precision, ema)
        if progress.optimiser is not None:
            optimiser.load_state_dict(progress.optimiser)
        taken = progress.step * config.batch // self._workers
        batches = members.batches(table, name, self._samples(config), taken, get_device())
        lines = _Lines(name, steps, config.batch, self._queue)
        while progress.step < steps:
            value = optimiser.step([*islice(batches, config.accumulate)])
            progress.step += 1
            progress.position += 1
            lines.add(progress.step, value)
            if keep is not None and progress.step < steps:
                keep(optimiser)
            if progress.step < steps and self._is_due(progress.step):
                progress.optimiser = optimiser.state_dict()
                self._checkpoint()
        optimiser.average_into(network)
        progress.losses[name] = lines.mean
        progress.step, progress.optimiser = 0, None

    def _is_due(self, step: int) -> bool:
        """Whether a checkpoint is due by the first worker's clock: all workers make it after the same step."""
        if step % AGREED_STEPS and self._workers > 1:
            return False
        due = torch.tensor(time.monotonic() - self._saved >= self._job.config.checkpoint_seconds, device=get_device())
        if self._workers > 1:
            torch.distributed.broadcast(due, src=0)
        return bool(due)

    def _checkpoint(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            _report(self._progress, self._rank, Path(folder), self._checkpoints)
        self._saved = time.monotonic()

    def _report_target(self, models: Models) -> None:
        progress = self._progress
        progress.autoencoder = None
        record = {**self._job.record, "final_losses": progress.losses, "resumed": progress.resumed}
        with tempfile.TemporaryDirectory() as folder:
            if self._rank == 0:
                target = Path(folder) / TARGET
                target.mkdir()
                save_target(target, models, self._job.config.half, record)
            _report(progress, self._rank, Path(folder), self._checkpoints)


def train_worker(arguments: dict[str, Any]) -> None:
    """Ray Train's function of a worker: arguments["job"] to its end, with lines into arguments["progress"].

    Its checkpoints go to arguments["checkpoints"].
    """
    _Training(arguments["job"], arguments["progress"], arguments["checkpoints"]).run()
