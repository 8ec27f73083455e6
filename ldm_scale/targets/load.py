"""From a folder in diffusers' layout to a target; safetensors only."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DDPMScheduler, VQModel
from transformers import CLIPTextModel, CLIPTokenizer

from ldm_scale.errors import UsageError, one_line
from ldm_scale.storage import Location
from ldm_scale.targets.base import Target
from ldm_scale.targets.families import SUPPORTED, Family, find_family
from ldm_scale.targets.lora import Lora, fuse_lora

# The autoencoder's folder has this name in diffusers' LDMPipeline, and that one everywhere else.
AUTOENCODERS = ("vqvae", "vae")
AUTOENCODER_KINDS = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}
DENOISERS = ("transformer", "unet")
PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class Parts:
    """The folders of a target's components; tokenizer and text encoder where its family takes them."""

    family: Family
    autoencoder: Path
    denoiser: Path
    scheduler: Path
    text: tuple[Path, Path] | tuple[()]

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.autoencoder, self.denoiser, self.scheduler, *self.text)


def _component(folder: Path, names: tuple[str, ...], what: str, config_name: str = "config.json") -> Path:
    found = next((folder / name for name in names if (folder / name / config_name).is_file()), None)
    if found is None:
        raise UsageError(f"target {folder} has no {what}: {names[-1]}/{config_name} is missing (diffusers' layout)")
    return found


def _read_config(path: Path, key: str) -> dict[str, Any]:
    """The configuration in a file, which holds `key`."""
    try:
        config = json.loads(path.read_text())
        config[key]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path} is not a configuration of diffusers or transformers: it has no {key}") from None
    return config


def _unsupported(folder: Path, denoiser: Path, name: str) -> UsageError:
    index = folder / "model_index.json"
    pipeline = f" of {_read_config(index, '_class_name')['_class_name']}" if index.is_file() else ""
    return UsageError(f"target denoiser {denoiser} is a {name}{pipeline}; supported are {SUPPORTED}")


def _find_parts(folder: Path) -> Parts:
    if not folder.is_dir():
        raise UsageError(f"target folder {folder} does not exist")
    denoiser = _component(folder, DENOISERS, "denoiser")
    config = _read_config(denoiser / "config.json", "_class_name")
    family = find_family(config)
    if family is None:
        raise _unsupported(folder, denoiser, config["_class_name"])
    return Parts(
        family,
        _component(folder, AUTOENCODERS, "autoencoder"),
        denoiser,
        _component(folder, ("scheduler",), "scheduler", "scheduler_config.json"),
        _find_text(folder) if family.text else (),
    )


def _find_text(folder: Path) -> tuple[Path, Path]:
    return (
        _component(folder, ("tokenizer",), "tokenizer", "tokenizer_config.json"),
        _component(folder, ("text_encoder",), "text encoder"),
    )


def _load(component: Path, kind: Any, what: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(component, local_files_only=True, **options)
    except Exception as error:
        # The libraries raise many kinds; each means that these files do not make this component.
        raise UsageError(f"target {what} {component} cannot be loaded: {one_line(error)}") from error


def _load_model(component: Path, kind: Any, what: str, device: str) -> Any:
    if not list(component.glob("*.safetensors")):
        raise UsageError(f"target {what} {component} has no .safetensors file; other weight formats are not read")
    return _load(component, kind, what, use_safetensors=True, low_cpu_mem_usage=False).float().to(device)


def _load_autoencoder(component: Path, device: str) -> AutoencoderKL | VQModel:
    name = _read_config(component / "config.json", "_class_name")["_class_name"]
    if name not in AUTOENCODER_KINDS:
        raise UsageError(f"target autoencoder {component} is a {name}; supported are {', '.join(AUTOENCODER_KINDS)}")
    return _load_model(component, AUTOENCODER_KINDS[name], "autoencoder", device)


def _load_schedule(component: Path) -> DDPMScheduler:
    """The schedule; betas do not depend on the sampler, and every sampler of noise prediction loads as this."""
    name = _read_config(component / "scheduler_config.json", "_class_name")["_class_name"]
    schedule = _load(component, DDPMScheduler, "scheduler")
    prediction = schedule.config.prediction_type
    if name.startswith("FlowMatch") or prediction not in PREDICTIONS:
        raise UsageError(
            f"target scheduler {component} is a {name} of {prediction}; supported are {' and '.join(PREDICTIONS)}"
        )
    return schedule


def _load_text(tokenizer: Path, text_encoder: Path, device: str) -> tuple[CLIPTokenizer, CLIPTextModel]:
    names = _read_config(text_encoder / "config.json", "architectures")["architectures"]
    if names != ["CLIPTextModel"]:
        raise UsageError(f"target text encoder {text_encoder} is a {names}; CLIPTextModel is supported")
    return (
        _load(tokenizer, CLIPTokenizer, "tokenizer"),
        _load_model(text_encoder, CLIPTextModel, "text encoder", device),
    )


def _check_channels(autoencoder: AutoencoderKL | VQModel, denoiser: Any) -> None:
    latent, taken = autoencoder.config.latent_channels, denoiser.config.in_channels
    if latent != taken:
        raise UsageError(
            f"the target's denoiser takes {taken} channels and its autoencoder's latents have {latent}; "
            "inpainting and other image-conditional models are not supported"
        )


def load_target(folder: str | Path, device: str, lora: Lora | None = None) -> Target:
    """The target of a folder in diffusers' layout, in float32 on a device, in eval mode, with a LoRA fused into it.

    Raises UsageError where the folder, a component or its safetensors weights are missing or of another kind, or the
    LoRA does not fit.
    """
    parts = _find_parts(Path(folder))
    autoencoder = _load_autoencoder(parts.autoencoder, device)
    denoiser = _load_model(parts.denoiser, parts.family.denoiser, "denoiser", device)
    _check_channels(autoencoder, denoiser)
    text = _load_text(*parts.text, device) if parts.text else ()
    if lora is not None:
        models = {parts.denoiser.name: denoiser}
        if text:
            models["text_encoder"] = text[1]
        fuse_lora(lora, models)
    return parts.family.target(autoencoder, denoiser, _load_schedule(parts.scheduler), *text)


def target_digest(folder: str | Path) -> str:
    """SHA-256 over the names and bytes of a target's configurations, vocabularies and weights.

    Raises UsageError where a component is missing.
    """
    digest = hashlib.sha256()
    for component in _find_parts(Path(folder)).folders:
        for path in sorted(component.iterdir()):
            if path.suffix in (".json", ".txt", ".safetensors"):
                digest.update(f"{component.name}/{path.name}:{Location.of(path).sha256()}\n".encode())
    return digest.hexdigest()
