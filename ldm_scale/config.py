"""One frozen, typed configuration tree; Python, YAML and the command line use the same names."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator

from ldm_scale.errors import UsageError, one_line
from ldm_scale.presets import NEEDED, PRESETS
from ldm_scale.storage import Location
from ldm_scale.values import Bytes, Integers, Names, Span, merge

DEMO = Path(__file__).parent / "demo"
# What is said of addresses of shards wherever they are options.
SHARDS = "shard folder with manifest.json, or .tar files of one as a brace pattern, {000..127}.tar"
ELSEWHERE = "manifest that does not lie in the shards' folder, local or s3://; it names shards relative to that folder"
# The word that asks for a calibration set where an address of a finished run could stand.
CALIBRATED = "calibration"
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16", "float16"]
DenoiserPrecision = Literal["float32", "tf32", "bfloat16", "float16"]
Compilation = Literal["off", "default", "graphs"]


class Config(BaseModel):
    """A part of the tree: frozen, and no key it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class ImageConfig(Config):
    """How stored images become the target's input; the papers' loaders, on Pillow."""

    size: int | None = Field(None, gt=0, description="side in pixels, one that the target takes; its own by default")
    crop: int | None = Field(None, gt=0, description="centre crop to this side before resizing (CelebA: 140)")
    filter: Literal["nearest", "bilinear", "bicubic", "lanczos"] = Field("bicubic", description="resize filter")
    max_pixels: int = Field(64_000_000, gt=0, description="larger images are rejected before they are decoded")


class GeometryConfig(Config):
    """What is measured of the decoder's pullback metric."""

    influence: Literal["exact", "hutchinson", "pooled"] = Field(
        "hutchinson",
        description="estimator of each dimension's influence; pooled shrinks few probes to a calibration set's mean",
    )
    probes: int = Field(16, gt=0, description="Hutchinson probes a sample (vector-Jacobian products)")
    calibration: int = Field(
        256, gt=1, description="samples, about, whose mean influences pooled estimates and a calibrated ranking use"
    )
    distortion: Literal["auto", "exact", "truncated", "slq", "off"] = Field(
        "auto",
        description="estimator of log sqrt det of the metric; auto is exact up to 1,024 latent dimensions, else off",
    )
    distortion_share: float = Field(
        1.0, gt=0, le=1, description="share of the samples whose distortion is measured, drawn by key"
    )
    memory: Bytes | None = Field(
        None,
        description="bytes that one chunk of decoder products may take, e.g. 8GiB; halved where the device lacks them; "
        "by default 64MiB on cpu, 4GiB on cuda",
    )


class MaskConfig(Config):
    """Which dimensions the influence spectra are binned by, and how finely."""

    ranking: str | None = Field(
        None,
        description="one ranking for all samples, beside each sample's own: a finished run, or the word calibration",
    )
    bins: int = Field(20, gt=1, description="equal bins of influence rank; drop shares are multiples of 1 / bins")


class LeakageConfig(Config):
    """Where the rows keep every dimension's share of the statistic, to ask whether influence tells what leaks."""

    attack: str | None = Field(None, description="attack whose |S_i| is kept; the first by default")
    timestep: int | None = Field(None, description="timestep at which; the middle one of its timesteps by default")


class AnalysisConfig(Config):
    """What is made of the rows; changing it never needs a GPU."""

    drop: float = Field(0.4, gt=0, lt=1, description="share of dimensions the headline drops")
    average: Names = Field(("pfami",), description="attacks whose statistic is the mean over all their timesteps")
    repeats: int = Field(10, gt=0, description="random split-halves over which calibrated choices are averaged")
    bootstrap: int = Field(1000, gt=0, description="bootstrap resamples behind each interval")
    confidence: float = Field(0.95, gt=0, lt=1, description="level of the intervals")


class ComputeConfig(Config):
    """Where and how wide the audit runs; never part of a result."""

    device: Device = Field("auto", description="auto is cuda where the cluster has GPUs, else cpu")
    batch_size: int = Field(32, gt=0, description="samples an auditor takes at a time")
    evaluations: int | None = Field(
        None, gt=0, description="rows of sample and timestep that the denoiser takes at a time; 64 on cpu, 256 on cuda"
    )
    compile: Compilation = Field(
        "off", description="torch.compile the denoiser; graphs: with CUDA graphs too (cuda only)"
    )
    channels_last: bool = Field(False, description="the denoiser's weights and inputs in memory with channels last")
    gpus: Span | None = Field(
        None, description="GPUs for auditors, at most or 0..64; a cluster that grows is asked for them (also --gpus)"
    )
    actors: Span | None = Field(
        None, description="auditors, at most or 2..8; by default as many as gpus or, without it, the cluster hold"
    )
    initial_actors: int | None = Field(
        None, gt=0, description="auditors asked for at the start; those the cluster holds then by default"
    )
    cpus_per_actor: float = Field(
        0.5, gt=0, description="CPUs each auditor reserves; on cpu, threads it computes with, at least one"
    )
    gpus_per_actor: float = Field(1, gt=0, description="GPUs each auditor reserves on cuda")
    cpus_per_reader: float = Field(0.2, gt=0, description="CPUs each shard reader reserves")
    cpus_per_decoder: float = Field(0.4, gt=0, description="CPUs each image decoder reserves")
    rows_per_part: int = Field(256, gt=0, description="rows committed at a time, in one Parquet file")

    @model_validator(mode="after")
    def _consistent(self) -> "ComputeConfig":
        if self.gpus is not None and (self.device == "cpu" or self.actors is not None):
            raise ValueError(f"gpus: leave out {'device cpu' if self.device == 'cpu' else 'actors'}")
        return self


def name_attacks(attacks: Any) -> Any:
    """Attacks as a mapping of names to options, from that, from a list of names or from "sima,pia"."""
    if isinstance(attacks, str):
        attacks = [name.strip() for name in attacks.split(",")]
    return {name: {} for name in attacks} if isinstance(attacks, list | tuple) else attacks


class AuditConfig(Config):
    """One audit: what is audited, on which samples, how, and where the run directory goes."""

    out: str = Field(description="run directory, local or s3://; the same command again resumes it")
    shards: str = Field(str(DEMO / "shards"), description=f"{SHARDS}, local or s3://")
    manifest: str | None = Field(None, description=ELSEWHERE)
    target: str = Field(
        str(DEMO / "target"), description="target in diffusers' layout: folder, s3:// or hub id[@revision]"
    )
    lora: str | None = Field(
        None, description="LoRA fused into the target's weights: file, folder, s3:// or hub id[@revision]"
    )
    lora_scale: float = Field(1.0, description="factor of the LoRA's change to the weights")
    split: str | None = Field(None, description="JSON of member and held-out keys; by default folders decide")
    seed: int = Field(0, description="seed of every random draw")
    latent: Literal["mode", "sample"] = Field("mode", description="the encoder's mode, or a sample of its posterior")
    conditioning: Literal["sample", "none"] | NonNegativeInt = Field(
        "sample",
        description="each sample's caption or class; none: the empty prompt, a DiT's null class; or the number of one "
        "class for all: a U-Net's null class",
    )
    precision: DenoiserPrecision = Field(
        "float32",
        description="of the denoiser alone: float32, tf32, bfloat16 or float16 (tf32 and float16 on cuda only)",
    )
    max_reject_fraction: float = Field(0.01, ge=0, le=1, description="more rejected samples than this fail the run")
    retry_rejects: bool = Field(False, description="when a run is resumed, try its rejected samples again")
    attacks: dict[str, dict[str, Any]] = Field(
        {"sima": {}}, description="attacks by name, with options in YAML; or names, comma-separated"
    )
    images: ImageConfig = ImageConfig()
    geometry: GeometryConfig = GeometryConfig()
    masks: MaskConfig = MaskConfig()
    leakage: LeakageConfig = LeakageConfig()
    analysis: AnalysisConfig = AnalysisConfig()
    compute: ComputeConfig = ComputeConfig()

    @model_validator(mode="before")
    @classmethod
    def _name_attacks(cls, data: Any) -> Any:
        if isinstance(data, dict) and "attacks" in data:
            return {**data, "attacks": name_attacks(data["attacks"])}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> "AuditConfig":
        if not self.attacks:
            raise ValueError("attacks: name at least one")
        if ("shards" in self.model_fields_set) != ("target" in self.model_fields_set):
            raise ValueError("give both shards and target; only together do they default to the demo")
        if self.lora is None and self.lora_scale != 1:
            raise ValueError("lora_scale: there is no lora to scale")
        try:
            check_drop(self.analysis.drop, self.masks.bins)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self

    def science(self) -> dict[str, Any]:
        """The part of the configuration that rows depend on (addresses excepted: their content is hashed)."""
        return self.model_dump(
            mode="json",
            include={
                "seed",
                "latent",
                "conditioning",
                "precision",
                "attacks",
                "images",
                "geometry",
                "masks",
                "leakage",
            },
            exclude={"geometry": {"memory"}, "masks": {"ranking"}},
        )


class HardwareConfig(Config):
    """what --dry-run reckons with; nothing else looks at it."""

    flops: float = Field(40e12, gt=0, allow_inf_nan=False, description="operations a second that a GPU sustains")
    gpus: int | None = Field(None, gt=0, description="GPUs that work at once; the most of --gpus, or 1, by default")
    bandwidth: Bytes = Field(200_000_000, gt=0, description="bytes a second to each GPU from storage, e.g. 500MB")


class DryRunConfig(Config):
    """Whether an audit is only reckoned; no part of the audit's own configuration, nor of its run."""

    dry_run: bool = Field(False, description="say what the audit would take, and begin nothing")
    hardware: HardwareConfig = HardwareConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "DryRunConfig":
        if "hardware" in self.model_fields_set and not self.dry_run:
            raise ValueError("hardware: its numbers are for --dry-run")
        return self


class PackConfig(Config):
    """From a source to shards."""

    dataset: str = Field(description="cifar10, celeba, imagenet, coco, flickr30k, parquet, webdataset, folder or emoji")
    source: str = Field(description="source folder, local or s3://")
    out: str = Field(description="new shard folder, local or s3://; the same command again resumes it")
    split: str | None = Field(None, description="JSON of keys, or a paper's .npz of numbers; random halves by default")
    members: Names = Field((), description="members are the keys that begin so (train/, say); all others by default")
    heldout: Names = Field((), description="held-out are the keys that begin so (val/, or valid-,test-)")
    seed: int = Field(0, description="seed of the random halves, and of the draw of max-samples")
    near_duplicates: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="keep one of each group of images closer than this RMS; 0 keeps all; a split file wins over it",
    )
    max_samples: int | None = Field(
        None, gt=1, description="draw this many at random, half a side, after near-duplicates are removed"
    )
    size: int | None = Field(None, gt=0, description="store PNGs of this side; by default files are copied as they are")
    shard_samples: int = Field(10_000, gt=0, description="samples a shard at most (and about 256 MB)")
    max_pixels: int = Field(64_000_000, gt=0, description="larger images are rejected where images are decoded")
    max_reject_fraction: float = Field(0.01, ge=0, le=1, description="more rejected images than this fail the pack")
    image_column: str = Field("image", description="column of images (parquet)")
    caption_column: str | None = Field(None, description="column of captions (parquet); text, if there is one")

    @model_validator(mode="after")
    def _consistent(self) -> "PackConfig":
        if self.members and not self.heldout:
            raise ValueError("members: give heldout too, the keys of the other side")
        if self.split is not None and self.heldout:
            raise ValueError("split: give a split file or heldout, not both")
        return self

    def science(self) -> dict[str, Any]:
        """The part of the configuration that shards depend on (addresses excepted: what is there is hashed)."""
        return self.model_dump(mode="json", exclude={"source", "out", "split", "max_reject_fraction"})


class StageConfig(Config):
    """How long and how fast one network is trained."""

    epochs: float = Field(1, gt=0, description="passes over the members")
    batch: int = Field(32, gt=0, description="batch size over all workers")
    rate: float = Field(1e-4, gt=0, description="learning rate (cosine to zero)")

    def steps(self, members: int) -> int:
        """Optimiser steps that `epochs` passes over the members take."""
        return max(1, round(self.epochs * members / self.batch))


class AutoencoderConfig(StageConfig):
    """the KL autoencoder: trained first, or taken as it is."""

    pretrained: str | None = Field(
        None, description="frozen AutoencoderKL to use instead: folder, s3:// or hub id (stabilityai/sd-vae-ft-mse)"
    )
    channels: Integers = Field((16, 16, 32), description="channels, one a resolution; the first is the image's")
    layers: int = Field(1, gt=0, description="residual blocks a resolution")
    kl_weight: float = Field(1e-2, ge=0, description="weight of the KL term per latent element, against L1 per pixel")
    epochs: float = Field(64, gt=0, description="passes over the members")
    rate: float = Field(2e-3, gt=0, description="learning rate (cosine to zero)")


class DenoiserConfig(StageConfig):
    """the U-Net that predicts noise; epochs, batch, rate and ema hold for fine-tuning too."""

    channels: Integers = Field((64, 128, 128), description="channels, one a resolution")
    layers: int = Field(1, gt=0, description="residual blocks a resolution")
    attention: int = Field(0, ge=0, description="how many of the lowest resolutions have self-attention")
    classes: bool = Field(False, description="conditional on the shards' class labels")
    epochs: float = Field(106.67, gt=0, description="passes over the members")
    batch: int = Field(64, gt=0, description="batch size over all workers")
    rate: float = Field(6e-4, gt=0, description="learning rate (cosine to zero)")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the weights' moving average, which is stored")


class TrainConfig(Config):
    """Train a target on the members of a shard folder: a preset, and what is given over it."""

    preset: Literal["demo", "cifar10", "celeba", "imagenet", "finetune", "lora"] = Field(
        "demo", description="values below file and flags: demo, cifar10, celeba, imagenet, finetune or lora"
    )
    shards: str = Field(description=f"{SHARDS}; only members/ are used")
    manifest: str | None = Field(None, description=ELSEWHERE)
    out: str = Field(description="new target folder, local or s3://; the same command again resumes")
    base: str | None = Field(
        None, description="Stable Diffusion whose U-Net is fine-tuned on captions: folder, s3:// or hub id[@revision]"
    )
    lora_rank: int | None = Field(None, gt=0, description="train LoRA weights of this rank on the base's attention")
    seed: int = Field(0, ge=0, description="seed of initial weights, order and noise")
    size: int = Field(32, gt=0, description="image side in pixels")
    precision: Precision = Field("float32", description="float32, or mixed: bfloat16, float16 (float16 on cuda only)")
    half: bool = Field(True, description="store trained weights in half precision")
    checkpoint_steps: int = Field(1000, gt=0, description="steps between checkpoints")
    failures: int = Field(3, ge=0, description="failed workers that are survived, from the last checkpoint")
    device: Device = Field("auto", description="auto is cuda where the cluster has GPUs, else cpu")
    workers: int = Field(1, gt=0, description="Ray Train workers, one a GPU on cuda")
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    denoiser: DenoiserConfig = DenoiserConfig()
    images: ImageConfig = ImageConfig()

    @model_validator(mode="before")
    @classmethod
    def _over_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        preset = data.get("preset")
        return merge(PRESETS.get(preset, {}), data) if isinstance(preset, str) else data

    @model_validator(mode="after")
    def _consistent(self) -> "TrainConfig":
        needed = {"autoencoder.pretrained": self.autoencoder.pretrained, "base": self.base}
        if needed.get(NEEDED.get(self.preset, ""), "") is None:
            raise ValueError(f"preset {self.preset}: give {NEEDED[self.preset]}")
        if self.lora_rank is not None and self.base is None:
            raise ValueError("lora_rank: LoRA weights are trained on a base; give base")
        if self.base is not None and (self.autoencoder.pretrained is not None or self.denoiser.classes):
            raise ValueError("base: it brings its own autoencoder and takes captions, not classes")
        if self.images.size not in (None, self.size):
            raise ValueError(f"images.size = {self.images.size}: give size alone")
        if self.denoiser.attention > len(self.denoiser.channels):
            raise ValueError(f"denoiser.attention: the U-Net has {len(self.denoiser.channels)} resolutions")
        for name, stage in self.stages().items():
            if stage.batch % self.workers:
                raise ValueError(f"{name}.batch = {stage.batch} is not a multiple of workers = {self.workers}")
        return self

    def stages(self) -> dict[str, StageConfig]:
        """What is trained, in this order."""
        frozen = self.base is not None or self.autoencoder.pretrained is not None
        return {"denoiser": self.denoiser} if frozen else {"autoencoder": self.autoencoder, "denoiser": self.denoiser}

    def recipe(self) -> dict[str, Any]:
        """The part of the configuration that the trained weights depend on."""
        return self.model_dump(
            mode="json", exclude={"shards", "manifest", "out", "device", "workers", "checkpoint_steps", "failures"}
        )


class ValidateConfig(Config):
    """What is checked before an audit, without a GPU."""

    shards: str | None = Field(None, description=f"{SHARDS}: every byte is read")
    manifest: str | None = Field(None, description=ELSEWHERE)
    write_manifest: bool = Field(
        False, description="write the manifest of shards that have none: manifest.json in their folder, or --manifest"
    )
    target: str | None = Field(None, description="target in diffusers' layout: loaded and tried on a few images")
    lora: str | None = Field(None, description="LoRA fused into the target's weights first")
    split: str | None = Field(None, description="JSON of member and held-out keys, looked up in the shards")
    decode_share: float = Field(0.05, ge=0, le=1, description="share of the images that are decoded, drawn by key")
    seed: int = Field(0, description="seed of that draw")
    images: ImageConfig = ImageConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "ValidateConfig":
        if self.shards is None and (self.write_manifest or self.manifest is not None):
            raise ValueError("shards: give the shards that the manifest describes")
        return self


# How many pictures the demo's shards hold, and what a benchmark says of its target.
DEMO_PICTURES = 1200
MEASURED = "unconditional target in diffusers' layout: folder, s3:// or hub id[@revision]"


class AuditBenchmarkConfig(Config):
    """How the speed of the models' part of an audit is measured, on pictures of the demo."""

    target: str = Field(str(DEMO / "target"), description=MEASURED)
    device: Literal["cpu", "cuda"] = Field("cpu", description="where to measure")
    seed: int = Field(0, description="seed of every random draw")
    samples: int = Field(64, gt=1, le=DEMO_PICTURES, description="pictures that are audited")
    published: int = Field(16, gt=1, le=DEMO_PICTURES, description="of these, how many by the published procedure, too")
    procedure: str = Field("jobs/published.py", description="file that holds the published procedure")
    batch_size: int = Field(32, gt=0, description="samples an auditor takes at a time")
    precision: int = Field(400, gt=3, le=DEMO_PICTURES, description="pictures on which precisions are compared")
    repeats: int = Field(3, gt=0, description="runs of the bare models of which the fastest counts")

    @model_validator(mode="after")
    def _consistent(self) -> "AuditBenchmarkConfig":
        if self.published > self.samples:
            raise ValueError(f"published = {self.published}: there are {self.samples} samples")
        return self


class InfluenceBenchmarkConfig(Config):
    """How speed and accuracy of the estimators of influence are measured, on pictures of the demo."""

    target: str = Field(str(DEMO / "target"), description=MEASURED)
    device: Literal["cpu", "cuda"] = Field("cpu", description="where to measure")
    seed: int = Field(0, description="seed of the probes")
    samples: int = Field(64, gt=1, description="pictures whose masks are compared with exact ones")
    calibration: int = Field(256, gt=1, description="other pictures, whose mean influences pooled estimates use")
    batch_size: int = Field(32, gt=0, description="pictures at a time")
    memory: Bytes | None = Field(
        None, description="bytes that one chunk of decoder products may take, e.g. 8GiB; by default as in an audit"
    )
    repeats: int = Field(3, gt=0, description="runs of which the fastest counts")

    @model_validator(mode="after")
    def _consistent(self) -> "InfluenceBenchmarkConfig":
        if self.samples + self.calibration > DEMO_PICTURES:
            raise ValueError(f"samples and calibration: the demo holds {DEMO_PICTURES} pictures")
        return self


class ReduceBenchmarkConfig(Config):
    """Made-up rows, and how they are reduced."""

    out: str | None = Field(
        None, description="new run directory, local or s3://, that is kept; by default a temporary one"
    )
    rows: int = Field(100_000, gt=7, description="samples, every other one a member")
    dimensions: int = Field(256, gt=1, description="latent dimensions")
    attacks: Names = Field(("sima", "pia"), description="attacks by name, comma-separated")
    timesteps: int = Field(20, gt=0, description="timesteps an attack")
    bins: int = Field(20, gt=1, description="bins of influence rank")
    ranking: bool = Field(False, description="spectra by one ranking for all samples, too")
    rows_per_part: int = Field(5000, gt=0, description="rows in one Parquet file")
    seed: int = Field(0, description="seed of the rows and of the analysis")
    analysis: AnalysisConfig = AnalysisConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "ReduceBenchmarkConfig":
        try:
            check_drop(self.analysis.drop, self.bins)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self


class ScaleBenchmarkConfig(Config):
    """Pools of auditors that only wait, on pretended GPUs."""

    fake_gpus: Integers = Field((1, 2, 4, 8, 16), description="sizes of the pools, one after the other")
    batch_seconds: float = Field(0.5, gt=0, description="how long an auditor waits a batch")
    batch_size: int = Field(4, gt=0, description="samples an auditor takes at a time")
    batches: int = Field(60, gt=9, description="batches an auditor")
    rows_per_part: int = Field(64, gt=0, description="rows committed at a time")

    @model_validator(mode="after")
    def _consistent(self) -> "ScaleBenchmarkConfig":
        if not self.fake_gpus or min(self.fake_gpus) < 1:
            raise ValueError("fake_gpus: give pools of at least one, such as 1,2,4")
        return self


class StreamBenchmarkConfig(Config):
    """Small JPEGs through the graph, with an auditor that does nothing."""

    samples: int = Field(60_000, gt=1, description="images of the larger run")
    few: int = Field(10_000, gt=1, description="images of a run before it, for its memory")
    shards: int = Field(24, gt=1, description="shards that hold them")
    side: int = Field(128, gt=3, description="side in pixels of the stored JPEGs")
    size: int = Field(64, gt=0, description="side in pixels that they are resized to")
    batch_size: int = Field(256, gt=0, description="samples an auditor takes at a time")
    rows_per_part: int = Field(1024, gt=0, description="rows committed at a time")
    s3: bool = Field(True, description="also from an S3 server on this machine, which the `test` extra brings")

    @model_validator(mode="after")
    def _consistent(self) -> "StreamBenchmarkConfig":
        if not self.shards <= self.few < self.samples:
            raise ValueError("few: give fewer than samples, and at least one a shard")
        return self


def check_drop(drop: float, bins: int) -> None:
    """Raise UsageError where a drop share is no whole number of bins."""
    if abs(drop * bins - round(drop * bins)) > 1e-9:
        raise UsageError(f"analysis.drop = {drop} is not a multiple of 1 / masks.bins")


class BenchmarkConfig(Config):
    """Which parts are measured, where the numbers go, and the options of each part."""

    parts: Names = Field(("audit", "influence", "stream", "reduce", "scale"), description="parts, comma-separated")
    numbers: str = Field(
        "runs/benchmark.json", description="JSON file of machine and numbers; it is replaced (also --json)"
    )
    audit: AuditBenchmarkConfig = AuditBenchmarkConfig()
    influence: InfluenceBenchmarkConfig = InfluenceBenchmarkConfig()
    stream: StreamBenchmarkConfig = StreamBenchmarkConfig()
    reduce: ReduceBenchmarkConfig = ReduceBenchmarkConfig()
    scale: ScaleBenchmarkConfig = ScaleBenchmarkConfig()


T = TypeVar("T", bound=Config)


def build(kind: type[T], values: dict[str, Any]) -> T:
    """A configuration from nested values.

    Raises UsageError that names the first offending key and what is wrong with it.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        message = {"extra_forbidden": "no such option", "missing": "must be given"}.get(first["type"], message)
        if first["type"] == "string_type" and first["input"] is None:
            message = "must be given (see --help)"
        raise UsageError(f"{key}: {message}" if key else message) from None


def load_yaml(path: str) -> dict[str, Any]:
    """The nested values of a YAML file (safe load).

    Raises UsageError where the file is missing or holds no mapping.
    """
    try:
        values = yaml.safe_load(Location.of(path).read_text())
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"configuration {path}: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise UsageError(f"configuration {path} must be a mapping of options")
    return values


def digest(content: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
