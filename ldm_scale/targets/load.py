"""From a folder in diffusers' layout to a target; safetensors only."""

import hashlib
import json
import math
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, DDPMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin, VQModel
from transformers import PreTrainedModel

from ldm_scale.errors import UsageError, one_line
from ldm_scale.targets.base import Target
from ldm_scale.targets.execution import PLAIN, Execution, allow_tf32
from ldm_scale.targets.families import SUPPORTED, Family, Text, find_family
from ldm_scale.targets.layout import DESCRIBED, VARIANTS, choose_variant, variant_of
from ldm_scale.targets.lora import Lora, fuse_lora
from ldm_scale.targets.text import TextEncoder

# Names of the autoencoder's folder: the first in diffusers' LDMPipeline, the second everywhere else.
AUTOENCODERS = ("vqvae", "vae")
AUTOENCODER_KINDS = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}
DENOISERS = ("transformer", "unet")
PREDICTIONS = ("epsilon", "v_prediction")
FLOW_SCHEDULER = FlowMatchEulerDiscreteScheduler
# Samplers whose noise does not follow from betas: flow matching, and Karras et al. 2022.
UNLIKE_DDPM = ("FlowMatch", "EDM")


@dataclass(frozen=True)
class Parts:
    """The folders of a target's components; for each text of its family a tokenizer and an encoder, or None."""

    family: Family
    autoencoder: Path
    denoiser: Path
    scheduler: Path
    texts: tuple[tuple[Path, Path] | None, ...]

    @property
    def folders(self) -> tuple[Path, ...]:
        texts = [folder for text in self.texts if text is not None for folder in text]
        return (self.autoencoder, self.denoiser, self.scheduler, *texts)


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
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
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
        tuple(_find_text(folder, text) for text in family.texts),
    )


def _find_text(folder: Path, text: Text) -> tuple[Path, Path] | None:
    if text.optional and not (folder / text.encoder).is_dir():
        return None
    return (
        _component(folder, (text.tokenizer,), "tokenizer", text.vocabulary),
        _component(folder, (text.encoder,), "text encoder"),
    )


def load_component(component: Path, kind: Any, what: str, **options: Any) -> Any:
    """A component of a class that has from_pretrained, from its local folder; UsageError if that fails."""
    try:
        return kind.from_pretrained(component, local_files_only=True, **options)
    except Exception as error:
        raise _cannot_load(component, what, error) from error


def _cannot_load(component: Path, what: str, error: Exception) -> UsageError:
    """The libraries raise errors of many kinds; each means that these files do not make this component."""
    return UsageError(f"target {what} {component} cannot be loaded: {one_line(error)}")


def outline_model(component: Path, kind: Any, what: str) -> Any:
    """A model with shapes but no numbers, on the device "meta", from the configuration in its local folder.

    Raises:
        UsageError: The configuration is not one of this class.
    """
    try:
        with torch.device("meta"):
            if issubclass(kind, PreTrainedModel):
                return kind(kind.config_class.from_pretrained(component, local_files_only=True)).float()
            config = kind.load_config(component, local_files_only=True)
            return kind.from_config(config, **_square_size(component, kind, what)).float()
    except UsageError:
        raise
    except Exception as error:
        raise _cannot_load(component, what, error) from error


def _find_variant(component: Path, what: str) -> str:
    """The variant of a component's weights that is read; "" are plain ones."""
    names = sorted(path.name for path in component.iterdir() if path.suffix == ".safetensors")
    variant = choose_variant(names)
    if variant is not None:
        return variant
    if not names:
        raise UsageError(f"target {what} {component} has no .safetensors file; other weight formats are not read")
    raise UsageError(
        f"target {what} {component} has {', '.join(names)}, of which none is plain or of one of {VARIANTS[1:]}; leave "
        "the one to be audited there alone"
    )


def variants(folder: Path) -> dict[str, str]:
    """The components of a target's folder whose weights are not plain ones, and the variant that is read."""
    parts = _find_parts(folder).folders
    models = [part for part in parts if any(path.suffix == ".safetensors" for path in part.iterdir())]
    found = {part.name: _find_variant(part, part.name) for part in models}
    return {name: variant for name, variant in found.items() if variant}


def _square_size(component: Path, kind: Any, what: str) -> dict[str, int]:
    """The option that makes a `sample_size` of [n, n] the one number that every class takes."""
    if issubclass(kind, PreTrainedModel):
        return {}
    path = component / "config.json"
    config = _read_config(path, "_class_name")
    size = config.get("sample_size")
    sides = size if isinstance(size, list) else [size, size]
    # Of the classes, an autoencoder alone cannot be without.
    if "sample_size" not in config or (size is None and kind is not AutoencoderKL):
        return {}
    if len(sides) == 2 and sides[0] == sides[1] and type(sides[0]) is int and sides[0] > 0:
        return {"sample_size": sides[0]}
    raise UsageError(
        f"target {what} {path}: sample_size = {json.dumps(size)}: only square images are audited; set one number"
    )


def load_model(component: Path, kind: Any, what: str, device: str | torch.device) -> Any:
    """A model in float32 on a device, every weight of it from the safetensors of its local folder.

    Args:
        component: the folder.
        kind: its class.
        what: it is, in messages.
        device: on "meta" it has shapes but no numbers, and needs no weights.

    Raises:
        UsageError: There are no safetensors weights, or not those of this class.
    """
    if device == "meta":
        return outline_model(component, kind, what)
    variant = _find_variant(component, what)
    model, found = load_component(
        component,
        kind,
        what,
        use_safetensors=True,
        low_cpu_mem_usage=False,
        variant=variant or None,
        output_loading_info=True,
        **_square_size(component, kind, what),
    )
    # The libraries would put random numbers in their place.
    if missing := sorted(found["missing_keys"]):
        raise UsageError(
            f"target {what} {component}: {len(missing)} weights are not in its files, the first is {missing[0]}"
        )
    return model.float().to(device)


def load_autoencoder(component: Path, device: str | torch.device) -> AutoencoderKL | VQModel:
    """The autoencoder of a local folder; raises UsageError if that holds none that is supported."""
    config = _read_config(component / "config.json", "_class_name")
    name = config["_class_name"]
    if config.get("latents_mean") is not None:
        raise UsageError(f"target autoencoder {component} scales its latents by channel, which is not supported")
    for key, fallback in (("scaling_factor", 1), ("shift_factor", None)):
        _check_factor(component / "config.json", key, config.get(key, fallback))
    if name not in AUTOENCODER_KINDS:
        raise UsageError(f"target autoencoder {component} is a {name}; supported are {', '.join(AUTOENCODER_KINDS)}")
    return load_model(component, AUTOENCODER_KINDS[name], "autoencoder", device)


def _check_factor(path: Path, key: str, value: Any) -> None:
    """Raise UsageError if a factor of the latents is no number; there need not be a shift."""
    if value is None and key == "shift_factor":
        return
    if type(value) not in (int, float) or not math.isfinite(value) or (key == "scaling_factor" and value <= 0):
        raise UsageError(
            f"target autoencoder {path}: {key} = {json.dumps(value)} is no number that latents can be scaled with; set "
            "the model's own: 0.18215 for Stable Diffusion 1.x and 2.x, 0.13025 for XL"
        )


def _load_schedule(component: Path, flow: bool) -> SchedulerMixin:
    """The schedule; betas do not depend on the sampler, and every sampler of noise prediction loads as DDPM's."""
    name = _read_config(component / "scheduler_config.json", "_class_name")["_class_name"]
    if flow:
        if name != FLOW_SCHEDULER.__name__:
            raise UsageError(f"target scheduler {component} is a {name}; supported is {FLOW_SCHEDULER.__name__}")
        return load_component(component, FLOW_SCHEDULER, "scheduler")
    schedule = load_component(component, DDPMScheduler, "scheduler")
    prediction = schedule.config.prediction_type
    if name.startswith(UNLIKE_DDPM) or prediction not in PREDICTIONS:
        raise UsageError(
            f"target scheduler {component} is a {name} of {prediction}; supported are {' and '.join(PREDICTIONS)}"
        )
    return schedule


def _load_text(text: Text, folders: tuple[Path, Path] | None, device: str) -> TextEncoder | None:
    if folders is None:
        return None
    tokenizer, encoder = folders
    names = _read_config(encoder / "config.json", "architectures")["architectures"]
    if names != [text.encoder_kind.__name__]:
        raise UsageError(f"target text encoder {encoder} is a {names}; {text.encoder_kind.__name__} is supported")
    return TextEncoder(
        load_component(tokenizer, text.tokenizer_kind, "tokenizer"),
        load_model(encoder, text.encoder_kind, "text encoder", device),
    )


def _check_channels(autoencoder: AutoencoderKL | VQModel, denoiser: Any, packing: int) -> None:
    latent, taken = autoencoder.config.latent_channels, denoiser.config.in_channels
    if latent * packing != taken:
        packed = f", {latent * packing} when packed" if packing > 1 else ""
        raise UsageError(
            f"the target's denoiser takes {taken} channels and its autoencoder's latents have {latent}{packed}; "
            "inpainting and other image-conditional models are not supported"
        )


def load_target(
    folder: str | Path,
    device: str,
    size: int | None = None,
    lora: Lora | None = None,
    execution: Execution = PLAIN,
) -> Target:
    """The target of a folder in diffusers' layout, in float32 on a device, in eval mode, with a LoRA fused into it.

    From here on this process computes in full float32, not TF32, except in the denoiser of a target that asks for it.

    Args:
        folder: local.
        device: on "meta" the target has shapes, and numbers only in its schedule; neither weights nor LoRA are read.
        size: height and width of its images, in pixels; the model's own by default.
        lora: to fuse, if any.
        execution: how its denoiser is run.

    Raises:
        UsageError: The folder, a component or its safetensors weights are missing or of another kind, the model cannot
            take the size, the LoRA does not fit, or the device cannot run the denoiser in this way.
    """
    execution.check(device)
    allow_tf32(False)
    # Bars of loading are no use in a worker's log.
    transformers.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()
    parts = _find_parts(Path(folder))
    autoencoder = load_autoencoder(parts.autoencoder, device)
    family = parts.family
    denoiser = load_model(parts.denoiser, family.denoiser, "denoiser", device)
    _check_channels(autoencoder, denoiser, family.packing)
    texts = [_load_text(text, found, device) for text, found in zip(family.texts, parts.texts, strict=True)]
    if lora is not None and device != "meta":
        encoders = {text.encoder: found.model for text, found in zip(family.texts, texts, strict=True) if found}
        fuse_lora(lora, {parts.denoiser.name: denoiser, **encoders})
    schedule = _load_schedule(parts.scheduler, family.flow)
    return family.target(autoencoder, denoiser, schedule, *texts, size=size, execution=execution)


def target_digest(folder: str | Path) -> str:
    """SHA-256 over the names and bytes of a target's configurations, vocabularies and weights.

    Raises:
        UsageError: A component is missing.
    """
    digest = hashlib.sha256()
    for component in _find_parts(Path(folder)).folders:
        for path in _read_files(component):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{component.name}/{path.name}:{content}\n".encode())
    return digest.hexdigest()


def _read_files(component: Path) -> list[Path]:
    """The files that a component is made of: its descriptions and one variant of its weights."""
    names = [path.name for path in component.iterdir()]
    variant = choose_variant(names)
    described = {name for name in names if any(fnmatch(name, pattern) for pattern in DESCRIBED)}
    weights = {name for name in names if variant is not None and variant_of(name) == variant}
    return [component / name for name in sorted(described | weights)]
