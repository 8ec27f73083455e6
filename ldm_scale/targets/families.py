"""The model families that can be audited, recognised by the configuration of their denoiser."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from diffusers import (
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from ldm_scale.config.installed import installed, load_installed, package
from ldm_scale.targets.class_conditional import ClassConditionalTarget
from ldm_scale.targets.class_token import ClassTokenUNet
from ldm_scale.targets.flux import PACK, FluxTarget
from ldm_scale.targets.layout import GROUP
from ldm_scale.targets.stable_diffusion import StableDiffusionTarget
from ldm_scale.targets.stable_diffusion_3 import StableDiffusion3Target
from ldm_scale.targets.stable_diffusion_xl import StableDiffusionXLTarget
from ldm_scale.targets.unconditional import UnconditionalTarget

# Options that the U-Nets of other pipelines set, and those of Stable Diffusion 1.x and 2.x do not. The last tells the
# network the scale of the guidance, as latent consistency models are told.
ADDED_CONDITIONS = (
    *("addition_embed_type", "class_embed_type", "encoder_hid_dim_type", "num_class_embeds"),
    "time_cond_proj_dim",
)


@dataclass(frozen=True)
class Text:
    """The folders of a tokenizer and its encoder, their classes, and the file that the tokenizer is read from."""

    tokenizer: str
    encoder: str
    tokenizer_kind: Any
    encoder_kind: Any
    vocabulary: str = "tokenizer_config.json"
    optional: bool = False


def _clip(number: str = "", kind: Any = CLIPTextModel) -> Text:
    return Text(f"tokenizer{number}", f"text_encoder{number}", CLIPTokenizer, kind)


def _t5(number: str, optional: bool = False) -> Text:
    # Without tokenizer.json it would be built from SentencePiece's file, which needs another library.
    return Text(
        f"tokenizer{number}", f"text_encoder{number}", T5TokenizerFast, T5EncoderModel, "tokenizer.json", optional
    )


@dataclass(frozen=True)
class Family:
    """The classes of a family's denoiser and target, its texts, and whether its schedule is one of flow matching.

    Attributes:
        packing: channels of the denoiser for each of the latent's.
        package: that adds it, and version; empty if it is ours.
    """

    denoiser: Any
    target: Any
    texts: tuple[Text, ...] = ()
    flow: bool = False
    packing: int = 1
    package: str = ""


def find_family(config: Mapping[str, Any]) -> Family | None:
    """The family of the denoiser with this configuration, ours or an installed one; None if it is not supported.

    Raises:
        UsageError: The installed one cannot be loaded.
    """
    match config["_class_name"]:
        case "UNet2DModel" if config.get("class_embed_type") is None:
            conditional = config.get("num_class_embeds") is not None
            return Family(UNet2DModel, ClassConditionalTarget if conditional else UnconditionalTarget)
        # The first DiTs were published under the name that diffusers' class had then.
        case "DiTTransformer2DModel" | "Transformer2DModel" if config.get("norm_type") == "ada_norm_zero":
            return Family(DiTTransformer2DModel, ClassConditionalTarget)
        case "ClassTokenUNet":
            return Family(ClassTokenUNet, ClassConditionalTarget)
        case "UNet2DConditionModel":
            return _find_conditional(config)
        case "SD3Transformer2DModel":
            clips = _clip("", CLIPTextModelWithProjection), _clip("_2", CLIPTextModelWithProjection)
            texts = (*clips, _t5("_3", optional=True))
            return Family(SD3Transformer2DModel, StableDiffusion3Target, texts, flow=True)
        case "FluxTransformer2DModel":
            return Family(FluxTransformer2DModel, FluxTarget, (_clip(), _t5("_2")), flow=True, packing=PACK**2)
        case name if (point := installed(GROUP).get(str(name))) is not None:
            family = load_installed(point, lambda found: isinstance(found, Family), Family.__name__)
            return replace(family, package=package(point))
    return None


def added_conditions(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a U-Net is given besides text, by the option that says so."""
    return {name: config[name] for name in ADDED_CONDITIONS if config.get(name) is not None}


def _find_conditional(config: Mapping[str, Any]) -> Family | None:
    added = added_conditions(config)
    if not added:
        return Family(UNet2DConditionModel, StableDiffusionTarget, (_clip(),))
    if added == {"addition_embed_type": "text_time"}:
        texts = (_clip(), _clip("_2", CLIPTextModelWithProjection))
        return Family(UNet2DConditionModel, StableDiffusionXLTarget, texts)
    kinds = (config.get(name) for name in ("down_block_types", "mid_block_type", "up_block_types"))
    blocks = [name for kind in kinds for name in (kind if isinstance(kind, list) else [kind])]
    if added.keys() == {"num_class_embeds"} and not any("CrossAttn" in str(name) for name in blocks):
        return Family(UNet2DConditionModel, ClassConditionalTarget)
    return None
