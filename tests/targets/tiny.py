"""Tiny random targets of every family, in diffusers' layout: 16 px images, 4 x 4 latents."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    ModelMixin,
    PNDMScheduler,
    SchedulerMixin,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CLASSES = 5
TOKENS = 12
KL = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (4, 4, 8),
    "norm_num_groups": 2,
    "latent_channels": 4,
}
UNET = {
    "sample_size": 4,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


def save(folder: Path, name: str, scheduler: SchedulerMixin, **models: ModelMixin) -> Path:
    """Write the components of a pipeline, each with save_pretrained."""
    for part, model in {**models, "scheduler": scheduler}.items():
        model.save_pretrained(folder / part)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
    return folder


def kl() -> AutoencoderKL:
    return AutoencoderKL(**KL, scaling_factor=0.7)


def vq_ldm(folder: Path) -> Path:
    torch.manual_seed(0)
    autoencoder = VQModel(**KL, num_vq_embeddings=16, scaling_factor=0.8)
    unet = UNet2DModel(**UNET, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    return save(folder, "LDMPipeline", DDIMScheduler(), vqvae=autoencoder, unet=unet)


def unconditional(folder: Path) -> Path:
    torch.manual_seed(0)
    unet = UNet2DModel(**UNET, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    return save(folder, "LDMPipeline", DDPMScheduler(), vqvae=kl(), unet=unet)


def class_unet(folder: Path, out_channels: int = 4) -> Path:
    """A U-Net of classes; 8 output channels are a prediction and a learned sigma."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(**{**UNET, **blocks, "out_channels": out_channels}, num_class_embeds=CLASSES)
    return save(folder, "LDMPipeline", DDPMScheduler(), vae=kl(), unet=unet)


def dit(folder: Path) -> Path:
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        norm_num_groups=2,
        sample_size=4,
        num_embeds_ada_norm=CLASSES,
    )
    return save(folder, "DiTPipeline", DDIMScheduler(), vae=kl(), transformer=transformer)


def write_tokenizer(folder: Path, pad: str) -> CLIPTokenizer:
    """CLIP's tokenizer over the letters and three merges, in the files that Stable Diffusion's folders have."""
    folder.mkdir(parents=True)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    ends = [letter + "</w>" for letter in letters]
    words = ["!", *letters, *ends, "ca", "cat</w>", "do", "<|startoftext|>", "<|endoftext|>"]
    special = {"bos_token": words[-2], "eos_token": words[-1], "unk_token": words[-1], "pad_token": pad}
    options = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "do_lower_case": True}
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\nd o\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(json.dumps(options | special))
    return CLIPTokenizer.from_pretrained(folder)


def stable_diffusion(folder: Path, prediction_type: str = "epsilon", pad: str = "<|endoftext|>") -> Path:
    """Stable Diffusion 1.x; 2.x predicts v and pads with "!"."""
    torch.manual_seed(0)
    words = write_tokenizer(folder / "tokenizer", pad)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    unet = UNet2DConditionModel(
        **UNET,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
    )
    schedule = PNDMScheduler(1000, 0.00085, 0.012, "scaled_linear", prediction_type=prediction_type)
    models = {"vae": kl(), "unet": unet, "text_encoder": CLIPTextModel(config)}
    return save(folder, "StableDiffusionPipeline", schedule, **models)
