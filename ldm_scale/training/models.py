"""The models of one training: what is trained, what stays as it is, and what is copied into the target."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from diffusers import DDPMScheduler, ModelMixin, UNet2DConditionModel, VQModel
from peft import LoraConfig
from transformers import CLIPTextModel, CLIPTokenizer

from ldm_scale.config.train import TrainConfig
from ldm_scale.errors import UsageError
from ldm_scale.files.digests import digest
from ldm_scale.files.storage import Location
from ldm_scale.targets.autoencoder import KLAutoencoder, downsampling, freeze
from ldm_scale.targets.components import load_component, load_model
from ldm_scale.targets.fetch import AUTOENCODER, TARGET, Kind, fetch
from ldm_scale.targets.intake import read_files
from ldm_scale.targets.layout import MODEL, SCHEDULE
from ldm_scale.targets.load import load_autoencoder, load_target, load_text, target_digest
from ldm_scale.targets.stable_diffusion import StableDiffusionTarget
from ldm_scale.training.conditions import ByCaption, ByClass, Condition, Unconditional
from ldm_scale.training.networks import build_autoencoder, build_denoiser, build_schedule, check_halved

BASE = replace(TARGET, what="base")
# The projections of every attention layer, as in diffusers' LoRA training.
LORA_MODULES = ["to_k", "to_q", "to_v", "to_out.0"]


@dataclass(frozen=True)
class Models:
    """Autoencoder, denoiser, schedule and condition of a training.

    Attributes:
        copied: the folders of components that go into the target byte for byte, by their names there.
    """

    autoencoder: KLAutoencoder
    denoiser: ModelMixin
    schedule: DDPMScheduler
    condition: Condition
    copied: dict[str, Path] = field(default_factory=dict)


def make_models(config: TrainConfig, classes: int, device: torch.device) -> Models:
    """The models that a training starts from, on a device; untrained weights are torch's next random numbers.

    Args:
        config: of the training.
        classes: how many class names the shards' manifest has.
        device: of the networks; on "meta" they have shapes but no numbers, and no weights are read.

    Raises:
        UsageError: A folder holds no such model, the models cannot take images of this size, or the manifest names no
            classes and the denoiser is to have them.
    """
    if config.base is not None:
        return _from_base(config, fetch(config.base, _read(BASE, device)).path, device)
    copied = {}
    if config.autoencoder.pretrained is not None:
        copied["vqvae"] = fetch(config.autoencoder.pretrained, _read(AUTOENCODER, device)).path
        autoencoder = _frozen_autoencoder(copied["vqvae"], device)
    else:
        autoencoder = build_autoencoder(config.autoencoder, config.size)
    factor = downsampling(autoencoder)
    check_halved(config.size, factor, len(config.denoiser.channels))
    if config.denoiser.classes and not classes:
        raise UsageError(f"denoiser.classes: the manifest of {config.shards} names no classes")
    denoiser = build_denoiser(
        config.denoiser,
        autoencoder.config.latent_channels,
        config.size // factor,
        classes if config.denoiser.classes else None,
    )
    condition = ByClass(classes) if config.denoiser.classes else Unconditional()
    schedule = build_schedule(*config.denoiser.betas)
    return Models(autoencoder.to(device), denoiser.to(device), schedule, condition, copied)


def _read(kind: Kind, device: torch.device) -> Kind:
    """What is fetched of a model for networks on a device."""
    return kind.outline if device.type == "meta" else kind


def check_base(config: TrainConfig, device: torch.device) -> None:
    """Raise UsageError if the base is no Stable Diffusion target for images of this size; device: of `make_models`."""
    if config.base is None:
        return
    target = load_target(fetch(config.base, _read(BASE, device)).path, device.type)
    if type(target) is not StableDiffusionTarget:
        raise UsageError(f"base {config.base} is no Stable Diffusion 1.x or 2.x; only those are fine-tuned")
    if target.image_size != config.size:
        raise UsageError(f"size = {config.size}: the base {config.base} takes {target.image_size} px")


def _from_base(config: TrainConfig, base: Path, device: torch.device) -> Models:
    names = ("vae", "scheduler", "text_encoder", "tokenizer")
    copied = {} if config.lora_rank is not None else {name: base / name for name in names}
    denoiser = load_model(base / "unet", UNet2DConditionModel, "denoiser", device)
    if config.lora_rank is not None:
        denoiser.requires_grad_(False)
        rank = config.lora_rank
        denoiser.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=LORA_MODULES)
        )
    encoder = load_text(base / "tokenizer", CLIPTokenizer, base / "text_encoder", CLIPTextModel, device)
    # The configuration of every sampler holds the betas and what the network predicts.
    schedule = load_component(base / "scheduler", DDPMScheduler, "scheduler", SCHEDULE)
    return Models(_frozen_autoencoder(base / "vae", device), denoiser, schedule, ByCaption(encoder), copied)


def _frozen_autoencoder(folder: Path, device: torch.device) -> KLAutoencoder:
    autoencoder = load_autoencoder(folder, device)
    if isinstance(autoencoder, VQModel):
        raise UsageError(f"autoencoder {folder} is a {type(autoencoder).__name__}; a denoiser is trained on a KL one")
    return freeze(autoencoder)


def find_sources(config: TrainConfig) -> TrainConfig:
    """The configuration with the addresses of the models it starts from pinned: absolute paths, and commits on the hub.

    Raises:
        UsageError: There is no such model.
    """
    pretrained = config.autoencoder.pretrained
    if pretrained is not None:
        pretrained = fetch(pretrained, AUTOENCODER).address
    base = fetch(config.base, BASE).address if config.base is not None else None
    autoencoder = config.autoencoder.model_copy(update={"pretrained": pretrained})
    return config.model_copy(update={"base": base, "autoencoder": autoencoder})


def source_digest(config: TrainConfig) -> str | None:
    """SHA-256 of the models that a training starts from, by name and content; None if it starts from none."""
    if config.base is not None:
        return fetch(config.base, BASE).digest(target_digest)
    if config.autoencoder.pretrained is None:
        return None
    return fetch(config.autoencoder.pretrained, AUTOENCODER).digest(
        lambda folder: digest({path.name: Location.of(path).sha256() for path in read_files(folder, MODEL)})
    )
