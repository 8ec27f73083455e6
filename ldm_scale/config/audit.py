"""The configuration of an audit."""

import shlex
from typing import Annotated, Any, Literal

from pydantic import ByteSize, Field, NonNegativeInt, model_validator

from ldm_scale.config.base import DEMO, ELSEWHERE, SHARDS, Captions, Config, Device
from ldm_scale.config.data import ImageConfig
from ldm_scale.config.installed import ATTACKS, ESTIMATORS, INFLUENCES, packages
from ldm_scale.config.values import (
    ATTACK,
    Address,
    AttackName,
    AttackNames,
    Bytes,
    Metavar,
    Span,
    flatten,
    spell,
    spell_flag,
)
from ldm_scale.errors import UsageError

# The word that asks for a calibration set instead of the ranking of a finished run.
CALIBRATED = "calibration"
# The folder of a run that holds the audit of its reference model.
REFERENCE = "reference"
DenoiserPrecision = Literal["float32", "tf32", "bfloat16", "float16"]
ProductPrecision = Literal["float32", "tf32", "bfloat16"]
Compilation = Literal["off", "default", "graphs"]
# A point of the encoder's posterior.
Latent = Literal["mode", "sample"]
# Samples that an auditor takes at a time unless another number is asked for, or chosen.
USUAL_BATCH = 32
# Rows of a part unless another number is asked for, or the run is small.
USUAL_PART = 256
# Samples of a side, at least: half of them are reported on, and a variance needs two.
FEWEST = 4
# The most latent dimensions in which distortion is exact by default.
AUTO_EXACT_DIMENSIONS = 1024


class GeometryConfig(Config):
    """What is measured of the decoder's pullback metric."""

    influence: Annotated[str, Metavar("INSTALLED", INFLUENCES)] = Field(
        "hutchinson",
        description="estimator of each dimension's influence; pooled completes few probes by a calibration set's; "
        "off: masks.ranking stands for all samples' own",
    )
    probes: int = Field(16, gt=0, description="Hutchinson probes a sample (vector-Jacobian products)")
    calibration: int = Field(
        256, gt=1, description="size, about, of the calibration set, for pooled estimates and masks.ranking"
    )
    distortion: Literal["auto", "exact", "truncated", "slq", "bound", "off"] = Field(
        "auto",
        description="estimator of log sqrt det of the pullback metric; bound is the sum of the influences, which takes "
        "no product; auto is exact up to 1,024 latent dimensions, else bound",
    )
    rank: int = Field(20, gt=0, description="largest singular values whose logarithms truncated distortion sums")
    distortion_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the samples whose distortion is measured, drawn by key; the others' is estimated from "
        "the bound",
    )
    precision: ProductPrecision = Field(
        "float32", description="precision of the decoder's products (tf32 on cuda only); their squares are float32"
    )
    latent: Latent | None = Field(
        None, description="the latent at which geometry is measured, as the option latent; by default the attacks' own"
    )
    memory: Bytes | None = Field(
        None,
        description="bytes that one chunk of decoder products may take, such as 8GiB; halved if the device lacks them; "
        "by default 64MiB on cpu, 4GiB on cuda",
    )


class MaskConfig(Config):
    """Which dimensions the influence spectra are binned by, and how finely."""

    ranking: Annotated[str, Metavar("PATH", (CALIBRATED,))] | None = Field(
        None,
        description="one ranking for all samples, beside each sample's own: of a calibration set or a finished run",
    )
    bins: int = Field(20, gt=1, description="equal bins of influence rank; drop shares are multiples of 1 / bins")


class LeakageConfig(Config):
    """The statistic that rows keep by dimension, to ask whether influence says what leaks."""

    attack: AttackName | None = Field(None, description="attack whose |S_i| is kept; the first by default")
    timestep: int | None = Field(None, description="at this timestep; the middle one of the attack's by default")


class AnalysisConfig(Config):
    """What is made of the rows; changing it never needs a GPU."""

    drop: float = Field(0.4, gt=0, lt=1, description="share of dimensions the headline drops")
    average: AttackNames = Field(
        ("pfami", "pfami_published"),
        description="attacks, comma-separated, with the mean over all their timesteps for statistic",
    )
    repeats: int = Field(10, gt=0, description="random split-halves over which held-out choices are averaged")
    bootstrap: int = Field(1000, gt=0, description="bootstrap resamples behind each interval")
    confidence: float = Field(0.95, gt=0, lt=1, description="level of the intervals")


class ComputeConfig(Config):
    """Where and how wide the audit runs; never part of a result."""

    device: Device = Field("auto", description="auto is cuda if the cluster has GPUs, else cpu")
    batch_size: int | None = Field(
        None,
        gt=0,
        description="samples an auditor takes at a time; by default what takes about a second, and on cuda keeps "
        "it busy, or fewer if its memory does not hold them",
    )
    evaluations: int | None = Field(
        None,
        gt=0,
        description="samples times timesteps that the denoiser takes at a time; by default 64 on cpu, 256 on cuda",
    )
    compile: Compilation = Field(
        "off", description="compile the denoiser with torch.compile; graphs: with CUDA graphs, too (cuda only)"
    )
    channels_last: bool = Field(False, description="the denoiser's weights and inputs in memory with channels last")
    gpus: Span | None = Field(
        None, description="GPUs for auditors: the most, or a span such as 0..64; a cluster that grows is asked for them"
    )
    actors: Span | None = Field(
        None, description="auditors: the most, or a span such as 2..8; by default as many as fit the GPUs or CPUs"
    )
    initial_actors: int | None = Field(
        None, gt=0, description="auditors at the start; by default as many as fit the cluster then"
    )
    cpus_per_actor: float = Field(
        0.5, gt=0, description="CPUs each auditor reserves; on cpu, threads it computes with, at least one"
    )
    gpus_per_actor: float = Field(1, gt=0, description="GPUs each auditor reserves on cuda")
    cpus_per_reader: float = Field(0.2, gt=0, description="CPUs each shard reader reserves")
    cpus_per_decoder: float = Field(0.4, gt=0, description="CPUs each image decoder reserves")
    rows_per_part: int | None = Field(
        None,
        gt=0,
        description="rows committed at a time, in one Parquet file; by default 256, or a 32nd of a small run, in whole "
        "batches",
    )

    @property
    def batch(self) -> int:
        """Samples an auditor takes at a time, as asked for or chosen."""
        return self.batch_size or USUAL_BATCH

    def part(self, samples: int) -> int:
        """Rows committed at a time in a run of so many samples: those of a small one are soon seen and kept.

        >>> [ComputeConfig().part(samples) for samples in (48, 1200, 4000, 1_000_000)]
        [32, 32, 96, 256]
        """
        return self.rows_per_part or self.batch * max(1, min(USUAL_PART, samples // 32) // self.batch)

    @model_validator(mode="after")
    def _consistent(self) -> "ComputeConfig":
        if self.gpus is not None and (self.device == "cpu" or self.actors is not None):
            raise ValueError(f"gpus: leave out {'device cpu' if self.device == 'cpu' else 'actors'}")
        return self


def name_attacks(attacks: Any) -> Any:
    """Attacks as a mapping of names to options, from that, from a list of names or from "sima,pia"."""
    if isinstance(attacks, str):
        attacks = [name.strip() for name in attacks.split(",")]
    named = isinstance(attacks, list | tuple) and all(isinstance(name, str) for name in attacks)
    return {name: {} for name in attacks} if named else attacks


def distortion_estimator(config: GeometryConfig, dimensions: int) -> str:
    """The estimator of distortion for D = `dimensions`: exact, truncated, slq, bound or off.

    Without influences nothing is measured of a sample's geometry unless it is asked for.

    >>> [distortion_estimator(GeometryConfig(distortion="auto"), D) for D in (1024, 1025)]
    ['exact', 'bound']
    """
    if config.distortion == "auto" and config.influence == "off":
        return "off"
    if config.distortion == "auto":
        return "exact" if dimensions <= AUTO_EXACT_DIMENSIONS else "bound"
    return config.distortion


def dropped_bins(drop: float, bins: int) -> int:
    """How many of the bins of influence rank a drop share leaves out.

    Raises:
        UsageError: The share is not a whole number of bins.

    >>> dropped_bins(0.4, 20)
    8
    """
    dropped = round(drop * bins)
    if abs(drop * bins - dropped) > 1e-9:
        raise UsageError(f"analysis.drop = {drop} is not a multiple of 1 / masks.bins = {1 / bins:g}")
    return dropped


class AuditConfig(Config):
    """One audit: what is audited, on which samples, how, and where the run directory goes."""

    out: Address = Field(description="run directory, local or s3://; the same command again resumes it")
    shards: Address = Field(str(DEMO / "shards"), description=f"{SHARDS}, local or s3://")
    manifest: Address | None = Field(None, description=ELSEWHERE)
    target: Address = Field(
        str(DEMO / "target"), description="target in diffusers' layout: folder, s3:// or hub id[@revision]"
    )
    lora: Address | None = Field(
        None, description="LoRA fused into the target's weights: file, folder, s3:// or hub id[@revision]"
    )
    lora_scale: float = Field(1.0, description="factor of the LoRA's change to the weights")
    reference: Address | None = Field(
        None,
        description="the base model before fine-tuning, or an untrained one: scores are also given relative to it, on "
        "the same draws; it is audited into out/reference",
    )
    split: Address | None = Field(None, description="JSON of member and held-out keys; by default folders decide")
    limit: int | None = Field(
        None,
        ge=FEWEST,
        description="a quick look: so many members and as many held-out samples, drawn by key from few shards",
    )
    seed: int = Field(0, description="seed of every random draw")
    latent: Latent = Field(
        "mode", description="the latent that is attacked: the encoder's mode, or a sample of its posterior"
    )
    conditioning: Literal["sample", "none"] | NonNegativeInt = Field(
        "sample",
        description="sample: each one's caption or class; none: the empty prompt, or a DiT's null class; a number: "
        "that class for all, such as a U-Net's null class",
    )
    captions: Captions = Field(
        "first",
        description="of a sample's several captions: the first, a random one, or all in turn over the timesteps",
    )
    precision: DenoiserPrecision = Field(
        "float32",
        description="precision of the denoiser alone (tf32 and float16 on cuda only); bfloat16 changes secmi, and pia "
        "at t = 0",
    )
    max_reject_fraction: float = Field(0.01, ge=0, le=1, description="more rejected samples than this fail the run")
    retry_rejects: bool = Field(False, description="when a run is resumed, try its rejected samples again")
    attacks: Annotated[dict[str, dict[str, Any]], ATTACK] = Field(
        {"sima": {}}, description="attacks, comma-separated; in YAML also a mapping of names to options"
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
        if self.geometry.influence == "off" and self.masks.ranking is None:
            raise ValueError("geometry.influence off: give masks.ranking, which stands for the samples' own")
        if self.geometry.influence == "off" and self.geometry.distortion == "bound":
            raise ValueError("geometry.distortion bound: it is the sum of influences, and geometry.influence is off")
        try:
            dropped_bins(self.analysis.drop, self.masks.bins)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self

    def command(self) -> str:
        """The command line that makes the same rows and results; `compute` decides nothing of them."""
        given = {"shards": self.shards, "target": self.target, "out": self.out}
        given |= flatten(self.model_dump(exclude_defaults=True, exclude={*given, "attacks", "compute"}))
        options = {"attacks": tuple(self.attacks), **flatten(self.attacks, "attacks.")}
        words = [word for key, value in (given | options).items() for word in (spell_flag(key), spell(value))]
        return shlex.join(["ldm-scale", "audit", *words])

    def of_reference(self) -> "AuditConfig":
        """The audit of the reference: the same of another target, in a folder of its own."""
        out = f"{self.out.rstrip('/')}/{REFERENCE}"
        other = {"target": self.reference, "reference": None, "lora": None, "lora_scale": 1.0, "out": out}
        return self.model_copy(update=other)

    def science(self) -> dict[str, Any]:
        """The part of the configuration that rows depend on (addresses excepted: their content is hashed)."""
        # Not named if they are what they were before there was a choice.
        defaults = {"captions": "first", "limit": None}
        named = {name: value for name, default in defaults.items() if (value := getattr(self, name)) != default}
        geometry = self.geometry
        if others := packages([*((ATTACKS, name) for name in self.attacks), (ESTIMATORS, geometry.influence)]):
            named["packages"] = others
        if geometry.distortion == "truncated":
            # Earlier runs took a randomized SVD of R + 30 vectors, whose numbers are a little others.
            named["truncated"] = "Krylov space"
        if geometry.influence == "pooled":
            # Earlier runs shrank each dimension by itself.
            named["pooled"] = "filter"
        chosen = {
            "rank": geometry.rank != 20,
            "latent": geometry.latent not in (None, self.latent),
            "precision": geometry.precision != "float32",
        }
        unnamed = {"memory", *(name for name, differs in chosen.items() if not differs)}
        included = {"seed", "latent", "conditioning", "precision", "attacks", "images", "geometry", "masks", "leakage"}
        excluded = {"geometry": unnamed, "masks": {"ranking"}}
        return named | self.model_dump(mode="json", include=included, exclude=excluded)


class HardwareConfig(Config):
    """The machines that --dry-run estimates for; nothing else uses them."""

    flops: float = Field(40e12, gt=0, description="operations a second that a GPU sustains")
    gpus: int | None = Field(
        None, gt=0, description="GPUs that work at once; the most of --gpus, --workers, or 1, by default"
    )
    bandwidth: Bytes = Field(
        ByteSize(200_000_000), gt=0, description="bytes a second to each GPU from storage, such as 500MB"
    )
    memory: Bytes = Field(
        ByteSize(80_000_000_000), gt=0, description="of a GPU; batches of an audit that take more are refused"
    )


class DryRunConfig(Config):
    """Whether an audit or a training is only estimated; no part of its own configuration, nor of its run."""

    dry_run: bool = Field(False, description="say what this would take, and start nothing")
    hardware: HardwareConfig = HardwareConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "DryRunConfig":
        if "hardware" in self.model_fields_set and not self.dry_run:
            raise ValueError("hardware: its numbers are for --dry-run")
        return self


class ReduceConfig(Config):
    """What a reduction may do without; no part of an audit's configuration, nor of its run."""

    partial: bool = Field(False, description="make results of a run that is not finished, from the rows that it has")
