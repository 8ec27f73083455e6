"""Low-rank adaptations (LoRA) of a target, fused into its weights before anything is measured."""

import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.loaders import (
    FluxLoraLoaderMixin,
    SD3LoraLoaderMixin,
    StableDiffusionLoraLoaderMixin,
    StableDiffusionXLLoraLoaderMixin,
)
from diffusers.utils import logging as diffusers_logging
from safetensors import safe_open
from torch import Tensor, nn

from ldm_scale.errors import UsageError
from ldm_scale.targets.intake import check_file
from ldm_scale.targets.layout import LORA_WEIGHTS
from ldm_scale.targets.lora_header import count_weights, followed
from ldm_scale.terminal import printable

# Characters of a library's message that are shown.
LONGEST = 300
# How the A of a module is called, behind its name.
A = ("lora.down", "lora_A")


@dataclass(frozen=True)
class Lora:
    """A file of LoRA weights, and the factor that they are multiplied with."""

    file: Path
    scale: float


def find_weights(path: Path) -> Path:
    """The LoRA's file: the path itself, or in a folder the one of diffusers' name, or the only .safetensors file.

    Raises:
        UsageError: It is no .safetensors file, or the folder has none or several.
    """
    if path.is_file():
        if path.suffix != ".safetensors":
            raise UsageError(f"lora {path} is no .safetensors file; other weight formats are not read")
        return path
    if (path / LORA_WEIGHTS).is_file():
        return check_file(path / LORA_WEIGHTS)
    # Not by a pattern: pathlib would take a folder that cannot be listed for an empty one.
    found = [file for file in path.iterdir() if file.suffix == ".safetensors"]
    if len(found) != 1:
        raise UsageError(f"lora {path} has {len(found)} .safetensors files; give the address of one")
    return check_file(found[0])


def fuse_lora(lora: Lora, models: Mapping[str, nn.Module]) -> None:
    """Add a LoRA to the weights of a target's models in place: W + scale * (alpha / r) * B A (Hu et al. 2022, eq. 3).

    Args:
        lora: of any format that diffusers' loader for this kind of model reads: its own, and kohya's.
        models: denoiser and text encoders, by the names of their folders.

    Raises:
        UsageError: The denoiser takes no LoRA, or not every weight of the file has its place in the models.
    """
    pipeline = _make_pipeline(lora.file, models)
    try:
        given = count_weights(lora.file)
        with _quiet():
            pipeline.load_lora_weights(
                str(lora.file.parent), weight_name=lora.file.name, use_safetensors=True, local_files_only=True
            )
        # A loader skips weights that it does not know: half a LoRA makes another model.
        loaded = (name for model in pipeline.components.values() for name, _ in model.named_parameters())
        if (missing := given - sum(".lora_" in name for name in loaded)) > 0:
            raise ValueError(f"{missing} of its {given} weights have no place in {' and '.join(pipeline.components)}")
        # safe: weights that are not finite are refused.
        pipeline.fuse_lora(list(pipeline.components), lora_scale=lora.scale, safe_fusing=True)
    except Exception as error:
        # The libraries raise many kinds; each means that this file does not fit this target.
        said = textwrap.shorten(printable(" ".join(str(error).split())), LONGEST, placeholder=" ...")
        raise UsageError(
            f"lora {lora.file} cannot be applied to this target{_first_name(lora.file)}: {said}; give a LoRA of this "
            "base model in diffusers' or kohya's format (LoHa, LoKr, DoRA and embeddings are none)"
        ) from error
    pipeline.unload_lora_weights()


def _first_name(file: Path) -> str:
    """What a file's first tensor is called, in words, if it can be read."""
    try:
        with safe_open(file, framework="pt") as tensors:
            return f", its first weight is {printable(min(tensors.keys())[:LONGEST])!r}"
    except Exception:
        # What is wrong with it is said already.
        return ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep diffusers from logging, in many lines, what its errors say."""
    before = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity(diffusers_logging.CRITICAL)
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(before)


class _Components:
    """As much of a diffusers pipeline as its LoRA loaders need."""

    hf_device_map = None

    def __init__(self, components: Mapping[str, nn.Module]) -> None:
        self.components = dict(components)
        vars(self).update(components)

    @classmethod
    def lora_state_dict(cls, *args: Any, **options: Any) -> tuple[Any, ...]:
        """A loader's own: the weights, and last the configuration in the file's header, of which little is followed.

        Alphas, if there are any, come between the two; with a header's they are for the loader to refuse.
        """
        weights, *alphas, metadata = super().lora_state_dict(*args, **options)  # type: ignore[misc]
        if metadata is None and any(alphas):
            weights, alphas = _with_alphas(weights, *alphas), [None]
        return weights, *alphas, followed(metadata, [weight.shape for weight in weights.values()])


def _with_alphas(weights: Mapping[str, Tensor], alphas: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights with each module's alpha / r in its A.

    Of alphas that differ, or that only some modules have, diffusers 0.42 gives several modules another's.

    Raises:
        ValueError: There is an alpha of no A.
    """
    scaled = {name: weight.float() for name, weight in weights.items()}
    for name, alpha in alphas.items():
        stem = name.removesuffix(".alpha")
        down = next((found for found in (stem, *(f"{stem}.{a}.weight" for a in A)) if found in scaled), None)
        if down is None:
            raise ValueError(f"{name} belongs to no weight")
        scaled[down] = scaled[down] * (float(alpha) / len(scaled[down]))
    return scaled


def _make_pipeline(file: Path, models: Mapping[str, nn.Module]) -> Any:
    denoiser = next(model for name, model in models.items() if not name.startswith("text_encoder"))
    loader = _find_loader(denoiser, "text_encoder_2" in models)
    if loader is None:
        raise UsageError(f"lora {file}: a target with a {type(denoiser).__name__} takes no LoRA")
    taken = {name: model for name, model in models.items() if name in loader._lora_loadable_modules}
    return type("LoraPipeline", (_Components, loader), {})(taken)


def _find_loader(denoiser: nn.Module, two_encoders: bool) -> Any:
    """diffusers' LoRA loader for a kind of denoiser; None if there is none."""
    match denoiser:
        case UNet2DConditionModel():
            return StableDiffusionXLLoraLoaderMixin if two_encoders else StableDiffusionLoraLoaderMixin
        case SD3Transformer2DModel():
            return SD3LoraLoaderMixin
        case FluxTransformer2DModel():
            return FluxLoraLoaderMixin
    return None
