"""The configuration of training."""

from typing import Any, Literal

from pydantic import Field, model_validator

from ldm_scale.config.base import ELSEWHERE, SHARDS, Captions, Config, Device
from ldm_scale.config.data import ImageConfig
from ldm_scale.config.presets import NEEDED, PRESETS
from ldm_scale.config.values import Address, Fractions, Widths, merge

Precision = Literal["float32", "bfloat16", "float16"]
# What records of older trainings lack: it is not named at its default, which is what they did.
LATER = (
    *("captions", "flip", "accumulate", "betas", "clip", "decay"),
    *("dropout", "kind", "latent", "scaled", "warmup", "weight_decay"),
)


class StageConfig(Config):
    """How long and how fast one network is trained."""

    epochs: float = Field(1, gt=0, le=1e6, description="passes over the members")
    batch: int = Field(32, gt=0, description="batch size over all workers")
    accumulate: int = Field(1, gt=0, description="parts of a batch that are computed one after the other, for memory")
    rate: float = Field(1e-4, gt=0, description="learning rate, at its highest")
    decay: Literal["cosine", "constant"] = Field("cosine", description="learning rate over the steps: to zero, or kept")
    warmup: int = Field(0, ge=0, description="first steps, in which the learning rate rises from zero")
    weight_decay: float = Field(0, ge=0, description="weight decay of AdamW")
    clip: float = Field(1, ge=0, description="norm that gradients are cut to; 0: they are left as they are")
    dropout: float = Field(0, ge=0, lt=1, description="share that residual blocks drop out; not of a base")

    def steps(self, members: int) -> int:
        """Optimiser steps that `epochs` passes over the members take."""
        return max(1, round(self.epochs * members / self.batch))


class AutoencoderConfig(StageConfig):
    """The KL autoencoder: trained first, or taken as it is."""

    pretrained: Address | None = Field(
        None, description="frozen AutoencoderKL to use instead: folder, s3:// or hub id (stabilityai/sd-vae-ft-mse)"
    )
    kind: Literal["resnet", "strided"] = Field(
        "resnet", description="resnet is AutoencoderKL; strided, the paper's, has strided and transposed convolutions"
    )
    channels: Widths = Field((16, 16, 32), description="channels, one a resolution; the first is the image's")
    layers: int = Field(1, gt=0, description="residual blocks a resolution")
    kl_weight: float = Field(1e-2, ge=0, description="weight of the KL term per latent element, against L1 per pixel")
    epochs: float = Field(64, gt=0, le=1e6, description="passes over the members")
    rate: float = Field(2e-3, gt=0, description="learning rate, at its highest")
    scaled: bool = Field(True, description="scale latents to a standard deviation of 1 (pretrained: as it says)")


class DenoiserConfig(StageConfig):
    """The U-Net that predicts noise; epochs, batch, rate and ema hold for fine-tuning, too."""

    kind: Literal["unet", "class-token"] = Field(
        "unet",
        description="unet adds classes to the time; class-token, the paper's for ImageNet, attends to a token of each",
    )
    channels: Widths = Field((64, 128, 128), description="channels, one a resolution")
    layers: int = Field(1, gt=0, description="residual blocks a resolution")
    attention: int = Field(0, ge=0, description="how many of the lowest resolutions have self-attention")
    classes: bool = Field(False, description="conditional on the shards' class labels")
    epochs: float = Field(160, gt=0, le=1e6, description="passes over the members")
    batch: int = Field(64, gt=0, description="batch size over all workers")
    rate: float = Field(6e-4, gt=0, description="learning rate, at its highest")
    latent: Literal["mode", "sample"] = Field(
        "mode", description="trained on the encoder's mode, or on another sample of its posterior each time"
    )
    betas: Fractions = Field(
        (1e-4, 0.02), description="first and last of 1,000 betas of the noise, linear between; a base has its own"
    )
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the weights' moving average, which is stored")


class TrainConfig(Config):
    """Train a target on the members of a shard folder: a preset, and what is given over it."""

    preset: Literal[
        "demo", "cifar10", "celeba", "imagenet", "finetune", "lora", "cifar10-small", "celeba-small", "imagenet-small"
    ] = Field("demo", description="named values of other options; file and flags win over them")
    shards: Address = Field(description=f"{SHARDS}; only members/ are used")
    manifest: Address | None = Field(None, description=ELSEWHERE)
    out: Address = Field(description="new target folder, local or s3://; the same command again resumes")
    base: Address | None = Field(
        None, description="Stable Diffusion whose U-Net is fine-tuned on captions: folder, s3:// or hub id[@revision]"
    )
    lora_rank: int | None = Field(None, gt=0, description="train LoRA weights of this rank on the base's attention")
    seed: int = Field(0, ge=0, description="seed of initial weights, order and noise")
    size: int = Field(32, gt=0, description="image side in pixels")
    captions: Captions = Field(
        "first", description="of a sample's several captions: the first, a random one each epoch, or all in turn"
    )
    flip: bool = Field(False, description="mirror images at random, left to right, half of the times")
    precision: Precision = Field("float32", description="bfloat16 and float16 are mixed (float16 on cuda only)")
    half: bool = Field(True, description="store trained weights in half precision")
    checkpoint_seconds: float = Field(
        60, ge=0, description="seconds between checkpoints: what is lost if the training is stopped"
    )
    audit_every: int | None = Field(
        None,
        gt=0,
        description="a curve: keep the target after each so many steps of the denoiser, audit all, compare them",
    )
    failures: int = Field(3, ge=0, description="failed workers after which training goes on from the last checkpoint")
    device: Device = Field("auto", description="auto is cuda if the cluster has GPUs, else cpu")
    workers: int = Field(1, gt=0, description="Ray Train workers; on cuda each has a GPU")
    cpus: int | None = Field(
        None,
        gt=0,
        description="CPUs that each worker reserves and has threads for; by default 1 on cuda, on cpu its share of all",
    )
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    denoiser: DenoiserConfig = DenoiserConfig()
    images: ImageConfig = ImageConfig()

    @model_validator(mode="before")
    @classmethod
    def _over_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        preset = data.get("preset", cls.model_fields["preset"].default)
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
        if self.lora_rank is not None and self.audit_every is not None:
            raise ValueError("audit_every: LoRA weights alone are no target; train without lora_rank")
        if self.images.size not in (None, self.size):
            raise ValueError(f"images.size = {self.images.size}: give size alone")
        if self.denoiser.kind == "class-token" and not self.denoiser.classes:
            raise ValueError("denoiser.kind class-token: it has classes; give denoiser.classes true")
        if self.denoiser.attention > len(self.denoiser.channels):
            raise ValueError(f"denoiser.attention: the U-Net has {len(self.denoiser.channels)} resolutions")
        for name, stage in self.stages().items():
            if stage.batch % (self.workers * stage.accumulate):
                parts = f" times {name}.accumulate = {stage.accumulate}" if stage.accumulate > 1 else ""
                raise ValueError(f"{name}.batch = {stage.batch} is not a multiple of workers = {self.workers}{parts}")
        betas = self.denoiser.betas
        if len(betas) != 2 or not 0 < betas[0] <= betas[1] < 1:
            raise ValueError("denoiser.betas: give the first and the last, ascending within 0 to 1, as in 0.0001,0.02")
        return self

    def stages(self) -> dict[str, StageConfig]:
        """What is trained, in this order."""
        frozen = self.base is not None or self.autoencoder.pretrained is not None
        return {"denoiser": self.denoiser} if frozen else {"autoencoder": self.autoencoder, "denoiser": self.denoiser}

    def kept(self, step: int) -> str:
        """Where audit_every keeps the target of a step of the denoiser."""
        return f"{self.curve}/targets/{step:06d}"

    @property
    def curve(self) -> str:
        """Where audit_every keeps targets, their audits and the comparison."""
        return f"{self.out.rstrip('/')}.curve"

    def recipe(self) -> dict[str, Any]:
        """The part of the configuration that the trained weights depend on."""
        exclude = {"shards", "manifest", "out", "device", "workers", "cpus"}
        exclude |= {"checkpoint_seconds", "failures", "audit_every"}
        parts = {None: self, "autoencoder": self.autoencoder, "denoiser": self.denoiser}
        recipe = self.model_dump(mode="json", exclude=exclude)
        for name, part in parts.items():
            place = recipe if name is None else recipe[name]
            for option, field in type(part).model_fields.items():
                if option in LATER and getattr(part, option) == field.default:
                    del place[option]
        return recipe
