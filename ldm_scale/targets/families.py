"""The model families that can be audited, told apart by the configuration of their denoiser."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel

from ldm_scale.targets.class_conditional import ClassConditionalTarget
from ldm_scale.targets.stable_diffusion import StableDiffusionTarget
from ldm_scale.targets.unconditional import UnconditionalTarget

SUPPORTED = (
    "unconditional and class-conditional UNet2DModel, DiTTransformer2DModel, and the UNet2DConditionModel of Stable "
    "Diffusion 1.x and 2.x"
)
# What the U-Nets of other pipelines have, and those of Stable Diffusion 1.x and 2.x have not.
ADDED_CONDITIONS = ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type", "num_class_embeds")


@dataclass(frozen=True)
class Family:
    """The classes of a family's denoiser and target, and whether the target takes a tokenizer and a text encoder."""

    denoiser: Any
    target: Any
    text: bool = False


def find_family(config: Mapping[str, Any]) -> Family | None:
    """The family of the denoiser with this configuration; None where it is not supported."""
    match config["_class_name"]:
        case "UNet2DModel" if config.get("class_embed_type") is None:
            conditional = config.get("num_class_embeds") is not None
            return Family(UNet2DModel, ClassConditionalTarget if conditional else UnconditionalTarget)
        # The first DiTs were published under the name that diffusers' class had then.
        case "DiTTransformer2DModel" | "Transformer2DModel" if config.get("norm_type") == "ada_norm_zero":
            return Family(DiTTransformer2DModel, ClassConditionalTarget)
        case "UNet2DConditionModel" if all(config.get(name) is None for name in ADDED_CONDITIONS):
            return Family(UNet2DConditionModel, StableDiffusionTarget, text=True)
    return None
