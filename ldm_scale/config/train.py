"""The configuration of training."""

from typing import Any, Literal

from pydantic import Field, model_validator

from ldm_scale.config.base import ELSEWHERE, SHARDS, Captions, Config, Device
from ldm_scale.config.data import ImageConfig
from ldm_scale.config.presets import NEEDED, PRESETS
from ldm_scale.config.values import Address, Integers, merge

Precision = Literal["float32", "bfloat16", "float16"]


class StageConfig(Config):
    """How long and how fast one network is trained."""

    epochs: float = Field(1, gt=0, description="passes over the members")
    batch: int = Field(32, gt=0, description="batch size over all workers")
    rate: float = Field(1e-4, gt=0, description="learning rate (cosine to zero)")

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
    channels: Integers = Field((16, 16, 32), description="channels, one a resolution; the first is the image's")
    layers: int = Field(1, gt=0, description="residual blocks a resolution")
    kl_weight: float = Field(1e-2, ge=0, description="weight of the KL term per latent element, against L1 per pixel")
    epochs: float = Field(64, gt=0, description="passes over the members")
    rate: float = Field(2e-3, gt=0, description="learning rate (cosine to zero)")


class DenoiserConfig(StageConfig):
    """The U-Net that predicts noise; epochs, batch, rate and ema hold for fine-tuning, too."""

    kind: Literal["unet", "class-token"] = Field(
        "unet",
        description="unet adds classes to the time; class-token, the paper's for ImageNet, attends to a token of each",
    )
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
        "demo", description="named values of other options; file and flags win over them"
    )
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
    precision: Precision = Field("float32", description="bfloat16 and float16 are mixed (float16 on cuda only)")
    half: bool = Field(True, description="store trained weights in half precision")
    checkpoint_steps: int = Field(1000, gt=0, description="steps between checkpoints")
    failures: int = Field(3, ge=0, description="failed workers after which training goes on from the last checkpoint")
    device: Device = Field("auto", description="auto is cuda if the cluster has GPUs, else cpu")
    workers: int = Field(1, gt=0, description="Ray Train workers; on cuda each has a GPU")
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
        if self.denoiser.kind == "class-token" and not self.denoiser.classes:
            raise ValueError("denoiser.kind class-token: it has classes; give denoiser.classes true")
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
        exclude = {"shards", "manifest", "out", "device", "workers", "checkpoint_steps", "failures"}
        recipe = self.model_dump(mode="json", exclude=exclude)
        # Not named if it is what it was before there was a choice.
        for part, name, before in (
            (recipe, "captions", "first"),
            (recipe["autoencoder"], "kind", "resnet"),
            (recipe["denoiser"], "kind", "unet"),
        ):
            if part[name] == before:
                del part[name]
        return recipe
