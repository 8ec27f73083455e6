"""Train a target on the members of a shard folder with Ray Train; the same command uses one CPU or many GPUs."""

import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
from ray.data import DataContext
from ray.train.torch import TorchTrainer, get_device, prepare_model
from ray.util.queue import Queue

from ldm_scale.config import ComputeConfig, TrainConfig
from ldm_scale.data.shards import Manifest, read_manifest
from ldm_scale.data.split import MEMBERS
from ldm_scale.engine.progress import relay
from ldm_scale.engine.reading import ShardTask, as_pixels, stream_images
from ldm_scale.engine.session import resolve_device, session
from ldm_scale.errors import RunError, UsageError
from ldm_scale.storage import Location
from ldm_scale.targets.base import to_images
from ldm_scale.training import (
    AutoencoderLoss,
    DenoiserLoss,
    build_autoencoder,
    build_denoiser,
    build_schedule,
    optimise,
    save_target,
    set_scaling_factor,
)

# Samples that fix the latents' scale between the two stages.
SCALE_SAMPLES = 1024


def _member_shards(manifest: Manifest, folder: Location) -> list[ShardTask]:
    shards = [shard for shard in manifest.shards if shard.side == MEMBERS]
    if not shards:
        raise UsageError(f"{folder} has no {MEMBERS}/ shards to train on")
    return [ShardTask(folder=folder.uri, shard=shard, membership=True) for shard in shards]


def _epochs(config: TrainConfig, shards: list[ShardTask]) -> list[ShardTask]:
    """Every shard once an epoch, in a seeded order, for as many epochs as both stages take: one unbroken stream."""
    members = sum(task.shard.samples for task in shards)
    wanted = config.vae_steps * config.vae_batch + SCALE_SAMPLES + config.unet_steps * config.unet_batch
    # One epoch more fills what shuffling and dropped partial batches leave over, on each of the workers.
    epochs = math.ceil(wanted / members) + 1 + config.workers
    order = np.random.default_rng(config.seed)
    return [shards[index] for _ in range(epochs) for index in order.permutation(len(shards))]


class _Images:
    """Shuffled batches of any size from this worker's part of the stream."""

    def __init__(self, config: TrainConfig, members: int) -> None:
        self._config = config
        self._chunks = ray.train.get_dataset_shard("members").iter_batches(
            batch_size=min(config.vae_batch, members),
            batch_format="numpy",
            local_shuffle_buffer_size=min(members, 4096),
            local_shuffle_seed=config.seed,
        )

    def batches(self, size: int) -> Iterator[torch.Tensor]:
        """Batches of `size` images, (size, 3, H, W) in [-1, 1]."""
        held: list[bytes] = []
        for chunk in self._chunks:
            bad = [reason for reason in chunk["reject"] if reason]
            if bad:
                raise RunError(f"a training image {bad[0]}; run `ldm-scale pack` again without it")
            held.extend(chunk["pixels"])
            while len(held) >= size:
                yield to_images(as_pixels(held[:size], self._config.size), get_device())
                held = held[size:]


def _run_stage(name: str, losses: Iterator[float], steps: int, progress: Queue | None) -> float:
    """Drive one stage to its end with a progress line every twentieth part; the mean loss of the last one."""
    recent: list[float] = []
    every = max(1, steps // 20)
    mean = math.nan
    for step, loss in enumerate(losses, start=1):
        recent.append(loss)
        if step % every == 0 or step == steps:
            mean, recent = sum(recent) / len(recent), []
            if progress is not None:
                progress.put(f"{name}: step {step} of {steps}, loss {mean:.4f}")
    return mean


def _train_worker(arguments: dict[str, Any]) -> None:
    config: TrainConfig = arguments["config"]
    context = ray.train.get_context()
    workers, rank = context.get_world_size(), context.get_world_rank()
    # ray.train.report costs seconds each; lines of the first worker go straight to the driver.
    progress = arguments["progress"] if rank == 0 else None
    # Ray gives a worker one thread a CPU it reserves; a lone CPU worker may use the machine.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    torch.manual_seed(config.seed)
    autoencoder, denoiser, schedule = build_autoencoder(config), build_denoiser(config), build_schedule()
    images = _Images(config, arguments["members"])
    torch.manual_seed(config.seed + 1 + rank)

    loss = prepare_model(AutoencoderLoss(autoencoder, config.kl_weight))
    steps = optimise(loss, images.batches(config.vae_batch // workers), config.vae_steps, config.vae_lr)
    reconstruction = _run_stage("autoencoder", steps, config.vae_steps, progress)

    autoencoder.eval()
    set_scaling_factor(autoencoder, next(images.batches(min(SCALE_SAMPLES, arguments["members"]))))
    loss = prepare_model(DenoiserLoss(denoiser, autoencoder, schedule))
    steps = optimise(loss, images.batches(config.unet_batch // workers), config.unet_steps, config.unet_lr)
    noise = _run_stage("denoiser", steps, config.unet_steps, progress)

    losses = {"autoencoder": reconstruction, "denoiser": noise}
    if rank > 0:
        ray.train.report(losses)
        return
    with tempfile.TemporaryDirectory() as folder:
        record = {**arguments["record"], "final_losses": losses}
        save_target(Path(folder), autoencoder, denoiser, schedule, config.half, record)
        ray.train.report(losses, checkpoint=ray.train.Checkpoint.from_directory(folder))


def run_training(config: TrainConfig) -> None:
    """Train a target on the members of `config.shards` and write it to `config.out`.

    Raises UsageError for shards or an output folder that cannot be used; nothing is overwritten.
    """
    out, folder = Location.of(config.out), Location.of(config.shards)
    manifest = read_manifest(folder)
    shards = _member_shards(manifest, folder)
    if not out.is_empty():
        raise UsageError(f"{out} is not empty; give a new folder, nothing is overwritten")
    with session():
        _collect(_fit(config, manifest, shards, f"{out}.partial"), out)


def _fit(config: TrainConfig, manifest: Manifest, shards: list[ShardTask], storage: str) -> ray.train.Checkpoint:
    device = resolve_device(config.device)
    # The same seed reads the same images in the same order.
    DataContext.get_current().execution_options.preserve_order = True
    images = stream_images(_epochs(config, shards), config.images, config.size, ComputeConfig())
    recipe = config.model_dump(mode="json", exclude={"shards", "out", "device", "workers"})
    arguments = {
        "config": config,
        "members": sum(task.shard.samples for task in shards),
        "record": {"recipe": recipe, "split_sha256": manifest.split_sha256},
    }
    with relay() as progress:
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={**arguments, "progress": progress},
            scaling_config=ray.train.ScalingConfig(num_workers=config.workers, use_gpu=device == "cuda"),
            run_config=ray.train.RunConfig(name="train", storage_path=storage),
            datasets={"members": images},
        )
        return trainer.fit().checkpoint


def _collect(checkpoint: ray.train.Checkpoint, out: Location) -> None:
    """Copy the trained target from Ray Train's storage to its own folder, and clear that storage."""
    out.make_dir()
    out.copy_from(checkpoint.filesystem, checkpoint.path)
    Location(f"{out}.partial").delete_dir()
