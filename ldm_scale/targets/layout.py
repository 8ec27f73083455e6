"""The files of a target and of a LoRA, by the names that diffusers and transformers give them."""

from collections.abc import Collection

COMPONENTS = (
    *("vae", "vqvae", "unet", "transformer", "scheduler"),
    *("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3"),
)
# Configurations and vocabularies.
DESCRIBED = ("*.json", "*.txt")
# With weights whole or in parts, as diffusers and transformers name them. No other format of weights: most of them can
# run code.
READ = (
    *DESCRIBED,
    *("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-*-of-*.safetensors"),
    *("model.safetensors", "model-*-of-*.safetensors"),
)
HALF = "*.fp16*.safetensors"
LORA_WEIGHTS = "pytorch_lora_weights.safetensors"


def half_precision(names: Collection[str]) -> tuple[str, ...]:
    """The pattern of fp16 weights, where the files of one component hold no others."""
    return () if any(name.endswith(".safetensors") for name in names) else (HALF,)
