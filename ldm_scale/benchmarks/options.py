"""The options of every benchmark."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from ldm_scale.config.audit import AnalysisConfig, Compilation, DenoiserPrecision, dropped_bins
from ldm_scale.config.base import DEMO, SHARDS, Config
from ldm_scale.config.values import Address, Bytes, Integers, Names
from ldm_scale.errors import UsageError

# How many pictures the demo's shards hold, and what a benchmark says of its target.
DEMO_PICTURES = 1200
MEASURED = "unconditional target in diffusers' layout: folder, s3:// or hub id[@revision]"


def _at_least(least: int) -> AfterValidator:
    """One number or more, none of them smaller."""

    def check(numbers: tuple[int, ...]) -> tuple[int, ...]:
        if not numbers or min(numbers) < least:
            raise ValueError(f"give numbers of at least {least}, such as {2 * least},{4 * least}")
        return numbers

    return AfterValidator(check)


def _some(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("give at least one")
    return names


Sizes = Annotated[Integers, _at_least(1)]
SomeNames = Annotated[Names, AfterValidator(_some)]


class AuditBenchmarkConfig(Config):
    """How the speed of the models' part of an audit is measured, on pictures of the demo."""

    target: Address = Field(str(DEMO / "target"), description=MEASURED)
    device: Literal["cpu", "cuda"] = Field("cpu", description="where to measure")
    seed: int = Field(0, description="seed of every random draw")
    samples: int = Field(64, gt=1, le=DEMO_PICTURES, description="pictures that are audited")
    published: int = Field(16, gt=1, le=DEMO_PICTURES, description="of these, how many also by the published procedure")
    batch_size: int = Field(32, gt=0, description="samples an auditor takes at a time")
    precision: int = Field(400, gt=3, le=DEMO_PICTURES, description="pictures on which precisions are compared")
    repeats: int = Field(3, gt=0, description="runs of the bare models of which the fastest counts")

    @model_validator(mode="after")
    def _consistent(self) -> "AuditBenchmarkConfig":
        if self.published > self.samples:
            raise ValueError(f"published = {self.published}: there are {self.samples} samples")
        return self


class InfluenceBenchmarkConfig(Config):
    """How speed and accuracy of the estimators of influence are measured, on the demo's pictures or on others."""

    target: Address = Field(str(DEMO / "target"), description=MEASURED)
    shards: Address = Field(str(DEMO / "shards"), description=f"{SHARDS}, local or s3://, with the target's pictures")
    device: Literal["cpu", "cuda"] = Field("cpu", description="where to measure")
    seed: int = Field(0, description="seed of the probes")
    samples: int = Field(64, gt=1, description="pictures whose masks are compared with exact ones")
    calibration: int = Field(256, gt=1, description="other pictures, whose mean influences pooled estimates use")
    batch_size: int = Field(32, gt=0, description="pictures at a time")
    memory: Bytes | None = Field(
        None, description="bytes that one chunk of decoder products may take, such as 8GiB; by default as in an audit"
    )
    repeats: int = Field(3, gt=0, description="runs of which the fastest counts")


class ReduceBenchmarkConfig(Config):
    """Made-up rows, and how they are reduced."""

    out: Address | None = Field(
        None, description="new run directory, local or s3://, that is kept; by default a temporary one"
    )
    rows: int = Field(100_000, gt=7, description="samples, every other one a member")
    dimensions: int = Field(256, gt=1, description="latent dimensions")
    attacks: SomeNames = Field(("sima", "pia"), description="names of attacks, comma-separated")
    timesteps: int = Field(20, gt=0, description="timesteps an attack")
    bins: int = Field(20, gt=1, description="bins of influence rank")
    ranking: bool = Field(False, description="add spectra by one ranking for all samples")
    rows_per_part: int = Field(5000, gt=0, description="rows in one Parquet file")
    seed: int = Field(0, description="seed of the rows and of the analysis")
    analysis: AnalysisConfig = AnalysisConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "ReduceBenchmarkConfig":
        try:
            dropped_bins(self.analysis.drop, self.bins)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self


class ScaleBenchmarkConfig(Config):
    """Pools of auditors that only wait, on pretended GPUs."""

    fake_gpus: Sizes = Field((1, 2, 4, 8, 16), description="sizes of the pools, one after the other")
    batch_seconds: float = Field(0.5, gt=0, description="seconds that an auditor waits on each batch")
    batch_size: int = Field(4, gt=0, description="samples an auditor takes at a time")
    batches: int = Field(60, gt=9, description="batches an auditor")
    rows_per_part: int = Field(64, gt=0, description="rows committed at a time")


class StreamBenchmarkConfig(Config):
    """Small JPEGs through the graph, with an auditor that does nothing."""

    samples: int = Field(60_000, gt=1, description="images of the larger run")
    few: int = Field(10_000, gt=1, description="images of a run before it, for its memory")
    shards: int = Field(24, gt=1, description="shards that hold them")
    side: int = Field(128, gt=3, description="side in pixels of the stored JPEGs")
    size: int = Field(64, gt=0, description="side in pixels that they are resized to")
    batch_size: int = Field(256, gt=0, description="samples an auditor takes at a time")
    rows_per_part: int = Field(1024, gt=0, description="rows committed at a time")
    s3: bool = Field(True, description="also from an S3 server on this machine (it comes with the `test` extra)")

    @model_validator(mode="after")
    def _consistent(self) -> "StreamBenchmarkConfig":
        if not self.shards <= self.few < self.samples:
            raise ValueError("few: give fewer than samples, and at least one a shard")
        return self


class DeviceBenchmarkConfig(Config):
    """How the speed of the models' parts on a device is measured, beside that of its matrix products."""

    device: Literal["cpu", "cuda"] = Field("cuda", description="where to measure")
    targets: SomeNames = Field(
        ("demo", "sd"), description="demo, and sd: Stable Diffusion 1.x's shapes at 512 px, random weights"
    )
    batches: Sizes = Field((1, 8, 32), description="how many go at once, fewest first")
    repeats: int = Field(3, gt=0, description="runs of which the fastest counts")
    numbers: str | None = Field(None, description="JSON file of machine and numbers; it is replaced (also --json)")


class StableDiffusionBenchmarkConfig(Config):
    """What is measured of an audit of Stable Diffusion 1.x's shapes at 512 px, with random weights."""

    device: Literal["cpu", "cuda"] = Field("cpu", description="where to measure, on cpu with one thread")
    samples: int = Field(1, gt=0, description="images that are encoded, and evaluated, at once")
    timesteps: int = Field(2, gt=0, le=100, description="evaluations of the denoiser a sample")
    probes: int = Field(1, gt=0, description="products with the decoder's Jacobian a sample")
    precision: DenoiserPrecision = Field("float32", description="as in an audit, of the denoiser alone")
    compile: Compilation = Field("off", description="as in an audit: off, default or graphs, of the denoiser alone")
    channels_last: bool = Field(False, description="as in an audit, of the denoiser alone")
    repeats: int = Field(0, ge=0, description="further runs, of which the fastest counts; on cuda the first warms up")


class TrainBenchmarkConfig(Config):
    """How the speed of training is measured, on the members of the demo."""

    presets: SomeNames = Field(
        ("demo", "cifar10-small"), description="presets of training from scratch, comma-separated"
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="where to measure")
    cpus: int = Field(1, gt=0, description="threads that compute")
    seed: int = Field(0, description="seed of weights, order and noise")
    steps: int = Field(10, gt=0, description="steps of a run, in the presets' batches")
    repeats: int = Field(3, gt=0, description="runs of which the fastest counts")


class EvidenceBenchmarkConfig(Config):
    """How often p calls an untrained target trained, and from how many images on a trained one."""

    targets: int = Field(200, ge=0, description="untrained targets that are audited")
    samples: int = Field(60, gt=3, le=DEMO_PICTURES // 2, description="pictures a side of an untrained target's audit")
    run: Address | None = Field(None, description="run directory of a trained target, of whose rows some are drawn")
    sides: Annotated[Integers, _at_least(4)] = Field((75, 150, 300, 1000), description="rows a side that are drawn")
    draws: int = Field(40, gt=0, description="draws of each number of rows")
    halvings: int = Field(10, gt=0, description="random split-halves behind each p")
    seed: int = Field(0, description="seed of weights, draws and halvings")


class BenchmarkConfig(Config):
    """Which parts are measured, where the numbers go, and the options of each part."""

    parts: SomeNames = Field(
        ("audit", "influence", "stream", "reduce", "scale", "sd"), description="parts, comma-separated"
    )
    numbers: Address = Field("runs/benchmark.json", description="JSON file of machine and numbers; it is replaced")
    audit: AuditBenchmarkConfig = AuditBenchmarkConfig()
    influence: InfluenceBenchmarkConfig = InfluenceBenchmarkConfig()
    stream: StreamBenchmarkConfig = StreamBenchmarkConfig()
    reduce: ReduceBenchmarkConfig = ReduceBenchmarkConfig()
    scale: ScaleBenchmarkConfig = ScaleBenchmarkConfig()
    sd: StableDiffusionBenchmarkConfig = StableDiffusionBenchmarkConfig()
    device: DeviceBenchmarkConfig = DeviceBenchmarkConfig()
    train: TrainBenchmarkConfig = TrainBenchmarkConfig()
    evidence: EvidenceBenchmarkConfig = EvidenceBenchmarkConfig()


# The parts of the benchmark by the names that their options have, and what each does.
PARTS: dict[str, tuple[type[Config], str]] = {
    "audit": (AuditBenchmarkConfig, "time an audit beside the published procedure and bare models"),
    "influence": (InfluenceBenchmarkConfig, "time the estimators of influence and their masks"),
    "stream": (StreamBenchmarkConfig, "stream small images beside a plain loop"),
    "reduce": (ReduceBenchmarkConfig, "time the reducer on made-up rows, with its memory"),
    "scale": (ScaleBenchmarkConfig, "run the graph with auditors that only wait"),
    "sd": (StableDiffusionBenchmarkConfig, "time an audit of Stable Diffusion's shapes, part by part; without Ray"),
    "device": (DeviceBenchmarkConfig, "time the models' parts on a device, beside its matrix speed; without Ray"),
    "train": (TrainBenchmarkConfig, "time the steps of a training, beside a bare loop; without Ray"),
    "evidence": (EvidenceBenchmarkConfig, "size and power of the p-value, by the number of images; without Ray"),
}
