"""What a training would take, in words, from configurations alone: no Ray, no weights, nothing written."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ldm_scale.config.audit import HardwareConfig
from ldm_scale.config.train import StageConfig, TrainConfig
from ldm_scale.costs.briefing import in_columns
from ldm_scale.costs.flops import Pass, measure_call, measure_pass
from ldm_scale.data.addresses import open_shards
from ldm_scale.data.split import MEMBERS
from ldm_scale.report.labels import duration, scaled, three_digits
from ldm_scale.targets.autoencoder import downsampling
from ldm_scale.training.conditions import Batch
from ldm_scale.training.losses import AutoencoderLoss, DenoiserLoss
from ldm_scale.training.models import Models, check_base, make_models

META = torch.device("meta")
# Members and classes of the demo and in the paper, for a training without shards.
MEMBERS_OF = {"demo": 600, "cifar10": 25_000, "celeba": 81_385, "imagenet": 50_000, "finetune": 2_500, "lora": 2_500}
CLASSES = 1000
# Bytes of a weight, of its gradient's two moments, and of its average.
WEIGHT, MOMENTS, AVERAGE = 4, 8, 4
COUNTED = (
    "Counted are convolutions and matrix products there and back, in float32; optimiser, reading, waiting and "
    "checkpoints come on top."
)


@dataclass(frozen=True)
class _Stage:
    """One network's training: how long it is, and what a worker computes at once, there and back."""

    name: str
    config: StageConfig
    network: nn.Module
    samples: int
    cost: Pass

    def flops(self, members: int) -> float:
        """Operations of all of its steps."""
        return self.cost.flops / self.samples * self.config.batch * self.config.steps(members)


def estimate_training(config: TrainConfig, hardware: HardwareConfig) -> Iterator[str]:
    """What each stage of a training takes and how long that is on this hardware, as lines.

    Without shards, members are as many as the paper trained on.

    Raises:
        UsageError: As the training would, except for the output folder, which is not read.
    """
    members, classes, said = _members(config)
    check_base(config, META)
    # Nothing but shapes.
    with torch.device(META):
        models = make_models(config, classes, META)
    stages = [_measure(name, stage, config, models) for name, stage in config.stages().items()]
    workers = hardware.gpus or config.workers
    yield "dry run: no Ray is started, nothing is trained"
    yield from in_columns(_describe(config, models, stages, members, said, workers, hardware))
    yield COUNTED


def _members(config: TrainConfig) -> tuple[int, int, str]:
    if not config.shards:
        count = MEMBERS_OF[config.preset.removesuffix("-small")]
        whose = "demo" if config.preset == "demo" else "paper"
        return count, CLASSES, f"{count:,}, as in the {whose}; --shards counts others"
    manifest = open_shards(config.shards, config.manifest).manifest
    count = sum(shard.samples for shard in manifest.shards if shard.side == MEMBERS)
    return count, len(manifest.classes), f"{count:,}, of {config.shards}"


def _measure(name: str, stage: StageConfig, config: TrainConfig, models: Models) -> _Stage:
    autoencoder, samples = models.autoencoder, stage.batch // config.workers // stage.accumulate
    network: nn.Module
    loss: nn.Module
    if name == "autoencoder":
        network, loss, shape = autoencoder, AutoencoderLoss(autoencoder, config.autoencoder.kl_weight), (3, config.size)
    else:
        side = config.size // downsampling(autoencoder)
        network, loss = models.denoiser, DenoiserLoss(models.denoiser, models.schedule, models.condition)
        shape = (autoencoder.config.latent_channels, side)
    inputs = torch.empty(samples, shape[0], shape[1], shape[1], device=META)

    def run() -> None:
        loss(Batch(inputs, [0] * samples, ["a caption"] * samples)).backward()
        loss.zero_grad()

    return _Stage(name, stage, network, samples, measure_call(run))


def _weights(network: nn.Module, trained: bool = False) -> int:
    return sum(weight.numel() for weight in network.parameters() if weight.requires_grad or not trained)


def _describe(
    config: TrainConfig,
    models: Models,
    stages: list[_Stage],
    members: int,
    said: str,
    workers: int,
    hardware: HardwareConfig,
) -> Iterator[tuple[str, str]]:
    images = torch.empty(1, 3, config.size, config.size, device=META)
    encoding = measure_pass(lambda: models.autoencoder.encode(images)).flops * members * (1 + config.flip)
    flops = {stage.name: stage.flops(members) for stage in stages}
    yield "Preset", config.preset
    yield "Members", said
    for stage in stages:
        yield stage.name, _length(stage, members, flops[stage.name])
    yield "Encoding", f"{members * (1 + config.flip):,} images once, {scaled(encoding, 'FLOP')}"
    resident = sum(map(_weights, (models.autoencoder, models.denoiser)))
    yield "Memory", ", ".join(f"{scaled(_memory(stage, resident), 'B')} in {stage.name}" for stage in stages)
    seconds = (sum(flops.values()) + encoding) / hardware.flops
    devices = f"{workers:,} GPU{'s' * (workers > 1)}"
    yield (
        "Time",
        f"{three_digits(seconds / 3600)} GPU hours; {duration(seconds / workers)} on {devices} at "
        f"{scaled(hardware.flops, 'FLOP/s')}",
    )


def _length(stage: _Stage, members: int, flops: float) -> str:
    trained = _weights(stage.network, trained=True)
    return (
        f"{trained / 1e6:,.4g}M weights; {stage.config.steps(members):,} steps of {stage.config.batch}; "
        f"{scaled(stage.cost.flops / stage.samples, 'FLOP')} a sample, {scaled(flops, 'FLOP')}"
    )


def _memory(stage: _Stage, resident: int) -> int:
    """Bytes of a worker: all weights, the optimiser's numbers, and what is computed at once."""
    averaged = AVERAGE if getattr(stage.config, "ema", None) is not None else 0
    return WEIGHT * resident + (MOMENTS + averaged) * _weights(stage.network, trained=True) + stage.cost.memory
