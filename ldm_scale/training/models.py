"""The models of one training: what is trained, what stays as it is, and of which folders a target is made of them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, ModelMixin, UNet2DConditionModel
from peft import LoraConfig
from transformers import CLIPTextModel, CLIPTokenizer

from ldm_scale.config import TrainConfig, digest
from ldm_scale.errors import UsageError, one_line
from ldm_scale.storage import Location
from ldm_scale.targets import load_target, target_digest
from ldm_scale.targets.autoencoder import freeze
from ldm_scale.targets.stable_diffusion import StableDiffusionTarget
from ldm_scale.training.conditions import ByCaption, ByClass, Condition, Unconditional
from ldm_scale.training.networks import build_autoencoder, build_denoiser, build_schedule

# The projections of every attention layer, as in diffusers' LoRA training.
LORA_MODULES = ["to_k", "to_q", "to_v", "to_out.0"]


@dataclass(frozen=True)
class Models:
    """Autoencoder, denoiser, schedule and condition of a training.

    `copied` are the folders of components that go into the target byte for byte, by their names there.
    """

    autoencoder: AutoencoderKL
    denoiser: ModelMixin
    schedule: DDPMScheduler
    condition: Condition
    copied: dict[str, Path] = field(default_factory=dict)


def make_models(config: TrainConfig, classes: int, device: torch.device) -> Models:
    """The models that a training starts from, on a device; untrained weights are torch's next random numbers.

    `classes` is the number of class names in the shards' manifest.
    Raises UsageError for folders that hold no such models, and for images that they cannot take.
    """
    if config.base is not None:
        return _from_base(config, Path(config.base), device)
    copied = {}
    if config.autoencoder.pretrained is not None:
        copied["vqvae"] = Path(config.autoencoder.pretrained)
        autoencoder = freeze(_load(copied["vqvae"], AutoencoderKL))
    else:
        autoencoder = build_autoencoder(config.autoencoder, config.size)
    factor = 2 ** (len(autoencoder.config.block_out_channels) - 1)
    whole = factor * 2 ** (len(config.denoiser.channels) - 1)
    if config.size % whole:
        raise UsageError(
            f"size = {config.size}: autoencoder and U-Net halve it to a whole number for multiples of {whole}"
        )
    if config.denoiser.classes and not classes:
        raise UsageError(f"denoiser.classes: the manifest of {config.shards} names no classes")
    denoiser = build_denoiser(
        config.denoiser,
        autoencoder.config.latent_channels,
        config.size // factor,
        classes if config.denoiser.classes else None,
    )
    condition = ByClass(classes) if config.denoiser.classes else Unconditional()
    return Models(autoencoder.to(device), denoiser.to(device), build_schedule(), condition, copied)


def check_base(config: TrainConfig) -> None:
    """Raise UsageError where the base is no Stable Diffusion target for images of this size."""
    if config.base is None:
        return
    target = load_target(config.base, "cpu")
    if type(target) is not StableDiffusionTarget:
        raise UsageError(f"base {config.base} is no Stable Diffusion 1.x or 2.x; only those are fine-tuned")
    if target.image_size != config.size:
        raise UsageError(f"size = {config.size}: the base {config.base} takes {target.image_size} px")


def _from_base(config: TrainConfig, base: Path, device: torch.device) -> Models:
    names = ("vae", "scheduler", "text_encoder", "tokenizer")
    copied = {} if config.lora_rank is not None else {name: base / name for name in names}
    denoiser = _load(base / "unet", UNet2DConditionModel)
    if config.lora_rank is not None:
        denoiser.requires_grad_(False)
        rank = config.lora_rank
        denoiser.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=LORA_MODULES)
        )
    text_encoder = _load(base / "text_encoder", CLIPTextModel).to(device)
    condition = ByCaption(CLIPTokenizer.from_pretrained(base / "tokenizer", local_files_only=True), text_encoder)
    # Every sampler's configuration holds the betas and what the network predicts.
    schedule = DDPMScheduler.from_pretrained(base / "scheduler", local_files_only=True)
    autoencoder = freeze(_load(base / "vae", AutoencoderKL))
    return Models(autoencoder.to(device), denoiser.to(device), schedule, condition, copied)


def _load(folder: Path, kind: Any) -> Any:
    """A model of a local folder, in float32, from safetensors alone."""
    if not list(folder.glob("*.safetensors")):
        raise UsageError(f"{folder} has no .safetensors file; other weight formats are not read")
    try:
        name = json.loads((folder / "config.json").read_text()).get("_class_name", kind.__name__)
        if name != kind.__name__:
            raise UsageError(f"{folder} holds a {name}; {kind.__name__} is wanted")
        # low_cpu_mem_usage=False: without it diffusers wants accelerate.
        return kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
        ).float()
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"{folder} cannot be loaded as a {kind.__name__}: {one_line(error)}") from error


def find_sources(config: TrainConfig) -> TrainConfig:
    """The configuration with absolute paths to the folders it takes models from.

    Raises UsageError where one is not a local folder.
    """
    pretrained = config.autoencoder.pretrained
    autoencoder = config.autoencoder.model_copy(update={"pretrained": _local(pretrained, "autoencoder.pretrained")})
    return config.model_copy(update={"base": _local(config.base, "base"), "autoencoder": autoencoder})


def source_digest(config: TrainConfig) -> str | None:
    """SHA-256 of the models that a training takes from a folder, by name and content; None where there are none."""
    if config.base is not None:
        return target_digest(config.base)
    if config.autoencoder.pretrained is None:
        return None
    files = [path for path in Path(config.autoencoder.pretrained).iterdir() if path.suffix in (".json", ".safetensors")]
    return digest({path.name: Location.of(path).sha256() for path in files})


def _local(address: str | None, option: str) -> str | None:
    if address is None:
        return None
    location = Location.of(address)
    if not location.is_local or not location.is_dir():
        raise UsageError(f"{option}: {address} is not a local folder")
    return location.uri
