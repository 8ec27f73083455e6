"""The files of a target and of a LoRA, by the names that diffusers and transformers give them."""

import re
from collections.abc import Iterable

from ldm_scale.config.installed import installed, package

# What describes a component, by the kind of it: nothing else of its folder is read, but for its weights. An index says
# in which of several files a weight lies.
MODEL = ("config.json", "diffusion_pytorch_model*.safetensors.index*.json", "model*.safetensors.index*.json")
SCHEDULE = ("scheduler_config.json",)
TOKENIZER = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.json", "vocab.json", "merges.txt"),
)
COMPONENTS = {
    **dict.fromkeys(("vae", "vqvae", "unet", "transformer"), MODEL),
    **dict.fromkeys(("text_encoder", "text_encoder_2", "text_encoder_3"), MODEL),
    **dict.fromkeys(("tokenizer", "tokenizer_2", "tokenizer_3"), TOKENIZER),
    "scheduler": SCHEDULE,
}
# Weights whole or in parts, as diffusers and transformers name them. No other format of weights: most of them can run
# code.
PLAIN = (
    *("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-*-of-*.safetensors"),
    *("model.safetensors", "model-*-of-*.safetensors"),
)
# The families of models that can be audited, and their denoisers by the names of diffusers' classes.
FAMILIES = {
    "unconditional": "UNet2DModel",
    "class-conditional": "UNet2DModel, UNet2DConditionModel without cross-attention, DiTTransformer2DModel, or "
    "our ClassTokenUNet",
    "stable-diffusion": "UNet2DConditionModel of Stable Diffusion 1.x and 2.x",
    "stable-diffusion-xl": "UNet2DConditionModel of Stable Diffusion XL",
    "stable-diffusion-3": "SD3Transformer2DModel",
    "flux": "FluxTransformer2DModel",
}
# Other packages add theirs to this group of entry points: the name is that of the denoiser's class, the value a Family.
GROUP = "ldm_scale.families"
LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
# Weights by the names that the libraries give them: a variant and the number of a part may be among them.
WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(?P<before>\w+))?(?:-\d+-of-(?P<parts>\d+))?(?:\.(?P<after>\w+))?\.safetensors"
)
# The variants of a component's weights, the best one first; plain weights have no name.
VARIANTS = ("", "fp32", "fp16", "bf16")
# Where there are no plain weights, what is fetched, one after the other until there are some.
OTHERS = (
    *((f"*.{variant}*.safetensors",) for variant in VARIANTS[1:]),
    ("diffusion_pytorch_model*.safetensors", "model*.safetensors"),
)


def known_families() -> dict[str, str]:
    """The denoisers of every family of ours by its name, then the packages of others' by the name of their denoiser."""
    return FAMILIES | {name: f"of {package(point)}" for name, point in installed(GROUP).items()}


def variant_of(name: str) -> str | None:
    """The variant that a file of weights is of; None if it is no such file."""
    match = WEIGHTS.fullmatch(name)
    return None if match is None else match["before"] or match["after"] or ""


def choose_variant(names: Iterable[str]) -> str | None:
    """The variant that is read of a component with these files: the best, or the only one; None if there is none."""
    found = {variant for name in names if (variant := variant_of(name)) is not None}
    known = [variant for variant in VARIANTS if variant in found]
    return known[0] if known else found.pop() if len(found) == 1 else None


def saved_twice(names: Iterable[str], variant: str) -> bool:
    """Whether these files hold a variant's weights more than once: whole and in parts, or in more and fewer parts."""
    matches = map(WEIGHTS.fullmatch, names)
    return len({match["parts"] for match in matches if match and variant_of(match[0]) == variant}) > 1
