"""LoRA files for tiny targets."""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextModel

RANK, ALPHA = 2, 3.0

UNET = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_out.0",
    "mid_block.attentions.0.proj_in",
)

# With an out_proj: diffusers knows kohya's names of attention by it, and kohya's files have them all.
TEXT = ("encoder.layers.0.self_attn.q_proj", "encoder.layers.0.self_attn.out_proj", "encoder.layers.1.mlp.fc1")

# Weights of a low rank, by the model's folder and the module in it: A of (r, in), B of (out, r).
Weights = dict[tuple[str, str], tuple[Tensor, Tensor]]


def models_of(target: Path) -> dict[str, nn.Module]:
    return {
        "unet": UNet2DConditionModel.from_pretrained(target / "unet"),
        "text_encoder": CLIPTextModel.from_pretrained(target / "text_encoder"),
    }


def make_weights(target: Path, unet: tuple[str, ...] = UNET, text: tuple[str, ...] = TEXT) -> Weights:
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, model in models_of(target).items():
        for module in {"unet": unet, "text_encoder": text}[name]:
            outside, inside, *window = model.get_submodule(module).weight.shape
            a = torch.randn(RANK, inside, *window, generator=generator)
            weights[name, module] = (a, torch.randn(outside, RANK, *[1] * len(window), generator=generator))
    return weights


def diffusers_file(path: Path, weights: Weights) -> Path:
    """diffusers' own names; without an alpha of its own alpha is r."""
    tensors = {}
    for (model, module), (a, b) in weights.items():
        tensors |= {f"{model}.{module}.lora_A.weight": a, f"{model}.{module}.lora_B.weight": b}
    save_file(tensors, path)
    return path
