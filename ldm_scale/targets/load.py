"""From a folder in diffusers' layout to a target; safetensors only."""

import inspect
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, DDPMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin, VQModel

from ldm_scale.errors import UsageError
from ldm_scale.targets.autoencoder import AnyAutoencoder
from ldm_scale.targets.base import Target
from ldm_scale.targets.components import find_variant, load_component, load_model, loading
from ldm_scale.targets.execution import PLAIN, Execution, allow_tf32
from ldm_scale.targets.families import Family, Text, added_conditions, find_family
from ldm_scale.targets.intake import digest_files, read_config, read_files
from ldm_scale.targets.layout import COMPONENTS, SCHEDULE, TOKENIZER, known_families
from ldm_scale.targets.lora import Lora, fuse_lora
from ldm_scale.targets.strided import StridedAutoencoder
from ldm_scale.targets.text import TextEncoder

# Names of the autoencoder's folder: the first in diffusers' LDMPipeline, the second everywhere else.
AUTOENCODERS = ("vqvae", "vae")
AUTOENCODER_KINDS = {kind.__name__: kind for kind in (AutoencoderKL, VQModel, StridedAutoencoder)}
DENOISERS = ("transformer", "unet")
PREDICTIONS = ("epsilon", "v_prediction")
FLOW_SCHEDULER = FlowMatchEulerDiscreteScheduler
# Pixels of an image's side; the largest models make 4,096.
LARGEST_SIDE = 16_384
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
    found = next((folder / name for name in names if os.path.lexists(folder / name / config_name)), None)
    if found is None:
        raise UsageError(f"target {folder} has no {what}: {names[-1]}/{config_name} is missing (diffusers' layout)")
    return found


def _unsupported(folder: Path, denoiser: Path, config: dict[str, Any]) -> UsageError:
    index, name = folder / "model_index.json", config["_class_name"]
    pipeline = f" of {read_config(index, '_class_name')['_class_name']}" if index.is_file() else ""
    added = "".join(f" with {option}" for option in added_conditions(config))
    supported = "; ".join(f"{family} ({denoisers})" for family, denoisers in known_families().items())
    return UsageError(f"target denoiser {denoiser} is a {name}{added}{pipeline}; supported are {supported}")


def _find_parts(folder: Path) -> Parts:
    if not folder.is_dir():
        raise UsageError(f"target folder {folder} {'is a file, not a folder' if folder.exists() else 'does not exist'}")
    denoiser = _component(folder, DENOISERS, "denoiser")
    config = read_config(denoiser / "config.json", "_class_name")
    family = find_family(config)
    if family is None:
        raise _unsupported(folder, denoiser, config)
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


def family_package(folder: Path) -> str:
    """The package that adds the family of a target's folder, and its version; empty if the family is ours."""
    return _find_parts(folder).family.package


def variants(folder: Path) -> dict[str, str]:
    """The components of a target's folder whose weights are not plain ones, and the variant that is read."""
    parts = _find_parts(folder).folders
    models = [part for part in parts if any(path.suffix == ".safetensors" for path in part.iterdir())]
    found = {part.name: find_variant(part, part.name) for part in models}
    return {name: variant for name, variant in found.items() if variant}


def load_autoencoder(component: Path, device: str | torch.device) -> AnyAutoencoder:
    """The autoencoder of a local folder; raises UsageError if that holds none that is supported."""
    config = read_config(component / "config.json", "_class_name")
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
    name = read_config(component / "scheduler_config.json", "_class_name")["_class_name"]
    if flow:
        if name != FLOW_SCHEDULER.__name__:
            raise UsageError(f"target scheduler {component} is a {name}; supported is {FLOW_SCHEDULER.__name__}")
        return load_component(component, FLOW_SCHEDULER, "scheduler", SCHEDULE)
    schedule = load_component(component, DDPMScheduler, "scheduler", SCHEDULE)
    if unsaid := _own_defaults(component, name):
        schedule = DDPMScheduler.from_config(schedule.config, **unsaid)
    prediction = schedule.config.prediction_type
    if name.startswith(UNLIKE_DDPM) or prediction not in PREDICTIONS:
        raise UsageError(
            f"target scheduler {component} is a {name} of {prediction}; supported are {' and '.join(PREDICTIONS)}"
        )
    return schedule


def _own_defaults(component: Path, name: str) -> dict[str, Any]:
    """What a configuration leaves to the defaults of its own sampler, of all that DDPM's schedule takes."""
    kind = getattr(diffusers, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        return {}
    said = read_config(component / "scheduler_config.json", "_class_name")
    own, taken = (inspect.signature(some).parameters for some in (kind, DDPMScheduler))
    return {key: own[key].default for key in taken.keys() & own.keys() - said.keys()}


def _load_text(text: Text, folders: tuple[Path, Path] | None, device: str) -> TextEncoder | None:
    if folders is None:
        return None
    tokenizer, encoder = folders
    names = read_config(encoder / "config.json", "architectures")["architectures"]
    if names != [text.encoder_kind.__name__]:
        raise UsageError(f"target text encoder {encoder} is a {names}; {text.encoder_kind.__name__} is supported")
    return load_text(tokenizer, text.tokenizer_kind, encoder, text.encoder_kind, device)


def load_text(
    tokenizer: Path, tokenizer_kind: Any, encoder: Path, encoder_kind: Any, device: str | torch.device
) -> TextEncoder:
    """A tokenizer and the encoder of its tokens, each of a class, from their local folders.

    Raises:
        UsageError: One of them cannot be loaded, or the encoder has no embedding for what the tokenizer makes.
    """
    words = load_component(tokenizer, tokenizer_kind, "tokenizer", TOKENIZER)
    model = load_model(encoder, encoder_kind, "text encoder", device)
    places = model.config.to_dict().get("max_position_embeddings")
    _check_words(tokenizer, words, model.get_input_embeddings().num_embeddings, places)
    text = TextEncoder(words, model)
    with loading(tokenizer, "tokenizer"):
        # What fails for every caption fails here.
        text.tokens(["a caption"], places or 1)
    return text


def _check_words(tokenizer: Path, words: Any, embeddings: int, places: int | None) -> None:
    """Raise UsageError if a tokenizer makes tokens that its encoder has no embedding for, or more than it takes."""
    if (last := max(words.get_vocab().values(), default=0)) >= embeddings:
        raise UsageError(f"target tokenizer {tokenizer} has a token {last}, its encoder {embeddings} embeddings")
    length = words.model_max_length
    if type(length) not in (int, float) or not 1 <= length <= (places or length):
        raise UsageError(
            f"target tokenizer {tokenizer}: model_max_length = {json.dumps(length)[:40]} is no number of tokens from 1 "
            f"to the {places or 'any'} that its encoder takes"
        )


def _check_channels(autoencoder: AnyAutoencoder, denoiser: Any, packing: int) -> None:
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
    with loading(Path(folder), "of these parts"):
        _check_channels(autoencoder, denoiser, family.packing)
    texts = [_load_text(text, found, device) for text, found in zip(family.texts, parts.texts, strict=True)]
    if lora is not None and device != "meta":
        encoders = {text.encoder: found.model for text, found in zip(family.texts, texts, strict=True) if found}
        fuse_lora(lora, {parts.denoiser.name: denoiser, **encoders})
    schedule = _load_schedule(parts.scheduler, family.flow)
    with loading(Path(folder), "of these parts"):
        target = family.target(autoencoder, denoiser, schedule, *texts, size=size, execution=execution)
    _check_target(parts.scheduler, target)
    return target


def _check_target(scheduler: Path, target: Target) -> None:
    """Raise UsageError if its images are larger than any model's, or its schedule's signal and noise are none."""
    if target.image_size > LARGEST_SIDE:
        raise UsageError(f"the target's images are {target.image_size:,} px wide; up to {LARGEST_SIDE:,} are supported")
    signal = target.alphas_cumprod
    falls = bool((signal.diff() <= 0).all())
    if not (falls and len(signal) and 0 <= signal.min() <= signal.max() < 1):
        raise UsageError(
            f"target scheduler {scheduler}: its noise does not grow from timestep to timestep, from more than 0 to at "
            "most 1; set the betas, or the shift, that the model was trained with"
        )


def target_digest(folder: str | Path) -> str:
    """SHA-256 over the names and bytes of a target's configurations, vocabularies and weights.

    Raises:
        UsageError: A component is missing.
    """
    return digest_files(target_files(folder))


def target_files(folder: str | Path) -> list[Path]:
    """The files that a target is made of, component by component.

    Raises:
        UsageError: A component is missing, or one of its files leads elsewhere.
    """
    folders = _find_parts(Path(folder)).folders
    return [path for part in folders for path in read_files(part, COMPONENTS[part.name])]
