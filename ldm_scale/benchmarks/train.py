"""How fast a training's steps are, beside a bare loop of the same networks over tensors; no Ray is started."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from ldm_scale.benchmarks.lines import Line
from ldm_scale.benchmarks.options import TrainBenchmarkConfig
from ldm_scale.benchmarks.timing import open_device, seconds
from ldm_scale.config.base import DEMO, build
from ldm_scale.config.train import DenoiserConfig, StageConfig, TrainConfig
from ldm_scale.data.addresses import open_shards
from ldm_scale.engine.members import Members, member_shards
from ldm_scale.targets.autoencoder import make_autoencoder
from ldm_scale.targets.base import to_images
from ldm_scale.training.conditions import Batch
from ldm_scale.training.losses import AutoencoderLoss, DenoiserLoss
from ldm_scale.training.models import Models, make_models
from ldm_scale.training.optimiser import Optimiser
from ldm_scale.training.tables import Images, Latents, Table, collect, posteriors

PART = "train"
GOAL = "bound: a bare loop over tensors in memory; goal: at least 0.9 of it"
STEPS, IMAGES = "steps/s", "images/s"
# Pictures that are encoded at once, and bytes of memory that a table may take: more than any has here.
ENCODED, MEMORY = 32, 1 << 40


@dataclass(frozen=True)
class _Stage:
    """A network, how it is trained, and what on: by our tables, and as one tensor."""

    network: nn.Module
    loss: nn.Module
    config: StageConfig
    table: Table
    tensor: Tensor


def run_train_benchmark(config: TrainBenchmarkConfig) -> Iterator[Line]:
    """The pass over the demo's members, and steps a second of both stages, for each preset.

    Raises:
        UsageError: A preset is unknown or starts from other models, or cuda is asked for if there is no GPU.
    """
    device = open_device(config.device)
    torch.set_num_threads(config.cpus)
    for preset in config.presets:
        recipe = build(TrainConfig, {"preset": preset, "shards": str(DEMO / "shards"), "out": "unused"})
        yield from _measure(recipe, config, device)


def _measure(recipe: TrainConfig, config: TrainBenchmarkConfig, device: torch.device) -> Iterator[Line]:
    torch.manual_seed(config.seed)
    models = make_models(recipe, 0, device)
    tasks = member_shards(open_shards(recipe.shards))
    members = Members(recipe, tasks, models.condition, "worker", config.cpus)
    read: list[Images] = []
    took = seconds(lambda: read.append(Images(collect(members.read(), members.count, MEMORY))), device)
    yield Line(PART, f"{recipe.preset}: reading", members.count / took, IMAGES, note="once a training")
    for name, stage in _stages(recipe, models, read[0], device):
        ours = _loop(recipe, name, stage, members, config, device)
        bare = _bare(stage, config.steps)
        # By turns: what else the machine does meets both.
        times = [(seconds(ours, device), seconds(bare, device)) for _ in range(1 + config.repeats)]
        least, bound = (min(some[1:]) for some in zip(*times, strict=True))
        yield Line(PART, f"{recipe.preset}: {name}", config.steps / least, STEPS, bound=config.steps / bound, note=GOAL)


def _stages(recipe: TrainConfig, models: Models, images: Images, device: torch.device) -> Iterator[tuple[str, _Stage]]:
    config = recipe.autoencoder
    loss: nn.Module = AutoencoderLoss(models.autoencoder, config.kl_weight)
    yield "autoencoder", _Stage(models.autoencoder, loss, config, images, to_images(images.pixels, device))
    autoencoder, sample = make_autoencoder(models.autoencoder), recipe.denoiser.latent == "sample"
    found = posteriors(images.pixels.split(ENCODED), autoencoder, recipe.flip, sample, device)
    moments = collect(found, len(images.pixels), MEMORY)
    loss = DenoiserLoss(models.denoiser, models.schedule, models.condition)
    yield "denoiser", _Stage(models.denoiser, loss, recipe.denoiser, Latents(moments), moments[:, 0, 0].to(device))


def _loop(
    recipe: TrainConfig,
    name: str,
    stage: _Stage,
    members: Members,
    benchmark: TrainBenchmarkConfig,
    device: torch.device,
) -> Callable[[], None]:
    """The training's own steps."""
    config = stage.config
    ema = config.ema if isinstance(config, DenoiserConfig) else None
    steps = benchmark.steps * (1 + benchmark.repeats)
    optimiser = Optimiser(stage.network, stage.loss, steps, config, recipe.precision, ema)
    batches = members.batches(stage.table, name, config.batch // config.accumulate, 0, device)

    def run() -> None:
        for _ in range(benchmark.steps):
            optimiser.step([*islice(batches, config.accumulate)])

    return run


def _bare(stage: _Stage, steps: int) -> Callable[[], None]:
    """AdamW on random rows of a tensor."""
    data, size = stage.tensor, stage.config.batch
    weights = [*stage.network.parameters()]
    adam = torch.optim.AdamW(weights, lr=stage.config.rate, weight_decay=stage.config.weight_decay)
    told: list[None] = [None] * size

    def run() -> None:
        for _ in range(steps):
            adam.zero_grad()
            inputs = data[torch.randint(len(data), (size,), device=data.device)]
            stage.loss(Batch(inputs, [*told], [*told])).backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            adam.step()

    return run
