"""Tiny random targets of every family, in diffusers' layout: 16 px images, 4 x 4 latents."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    ModelMixin,
    PNDMScheduler,
    SchedulerMixin,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from ldm_scale.targets.class_token import ClassTokenUNet
from ldm_scale.targets.strided import StridedAutoencoder

CLASSES = 5
TOKENS = 12
KL = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (4, 4, 8),
    "norm_num_groups": 2,
    "latent_channels": 4,
}
# Blocks of a text-conditional U-Net, and Stable Diffusion's schedule.
ATTENDING = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 2,
}
BETAS = (1000, 0.00085, 0.012, "scaled_linear")
UNET = {
    "sample_size": 4,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}

FLUX = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 8,
    "axes_dims_rope": (2, 2, 4),
}


P = ParamSpec("P")
_made = TemporaryDirectory()


def made_once(make: Callable[P, Path]) -> Callable[P, Path]:
    """A target is made once in a process; whoever asks again gets a copy, which he may change."""
    known: dict[Any, Path] = {}

    @functools.wraps(make)
    def copied(*arguments: P.args, **options: P.kwargs) -> Path:
        folder, *others = arguments
        key = (*others, *options.items())
        if key not in known:
            known[key] = make(Path(_made.name) / make.__name__ / str(len(known)), *others, **options)
        torch.manual_seed(0)  # what is drawn next does not depend on who was first
        return Path(shutil.copytree(known[key], folder, dirs_exist_ok=True))

    return copied


def at(t: int, z: torch.Tensor) -> torch.Tensor:
    """One timestep for all rows of z."""
    return torch.full((len(z),), t)


def save(folder: Path, name: str, scheduler: SchedulerMixin, **models: ModelMixin | PreTrainedModel) -> Path:
    """Write the components of a pipeline, each with save_pretrained, beside the tokenizers that are there."""
    index: dict[str, object] = {"_class_name": name}
    for part, model in {**models, "scheduler": scheduler}.items():
        model.save_pretrained(folder / part)
        index[part] = [type(model).__module__.split(".")[0], type(model).__name__]
    for path in folder.glob("tokenizer*"):
        kind = T5TokenizerFast if (path / "tokenizer.json").is_file() else CLIPTokenizer
        index[path.name] = ["transformers", kind.__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def kl() -> AutoencoderKL:
    return AutoencoderKL(**KL, scaling_factor=0.7)


@made_once
def vq_ldm(folder: Path) -> Path:
    torch.manual_seed(0)
    autoencoder = VQModel(**KL, num_vq_embeddings=16, scaling_factor=0.8)
    unet = UNet2DModel(**UNET, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    return save(folder, "LDMPipeline", DDIMScheduler(), vqvae=autoencoder, unet=unet)


@made_once
def unconditional(folder: Path) -> Path:
    torch.manual_seed(0)
    unet = UNet2DModel(**UNET, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    return save(folder, "LDMPipeline", DDPMScheduler(), vqvae=kl(), unet=unet)


@made_once
def strided(folder: Path) -> Path:
    """The paper's from-scratch target: its autoencoder, and latents that are not scaled."""
    torch.manual_seed(0)
    unet = UNet2DModel(**UNET, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    autoencoder = StridedAutoencoder(block_out_channels=(4, 4, 8), sample_size=16)
    return save(folder, "LDMPipeline", DDPMScheduler(), vqvae=autoencoder, unet=unet)


@made_once
def class_token(folder: Path) -> Path:
    """The paper's ImageNet target: a U-Net that attends to the token of a class."""
    torch.manual_seed(0)
    options = {"attending": 1, "heads": 2, "token_width": 8, "num_class_embeds": CLASSES}
    return save(folder, "LDMPipeline", DDPMScheduler(), vqvae=kl(), unet=ClassTokenUNet(**UNET, **options))


@made_once
def class_unet(folder: Path, out_channels: int = 4) -> Path:
    """A U-Net of classes; 8 output channels are a prediction and a learned sigma."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(**{**UNET, **blocks, "out_channels": out_channels}, num_class_embeds=CLASSES)
    return save(folder, "LDMPipeline", DDPMScheduler(), vae=kl(), unet=unet)


@made_once
def class_conditional_unet(folder: Path) -> Path:
    """The other class of U-Net, of classes and without cross-attention."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        **UNET,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        mid_block_type="UNetMidBlock2D",
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        num_class_embeds=CLASSES,
    )
    return save(folder, "LDMPipeline", DDPMScheduler(), vae=kl(), unet=unet)


@made_once
def dit(folder: Path, classes: int = CLASSES) -> Path:
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        norm_num_groups=2,
        sample_size=4,
        num_embeds_ada_norm=classes,
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


def clip_config(words: CLIPTokenizer, width: int, layers: int = 2) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=width // 2,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )


def write_t5_tokenizer(folder: Path) -> T5TokenizerFast:
    """T5's tokenizer over the letters and two words, in JSON alone."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *letters, "\u2581cat", "\u2581do"]
    vocabulary = [(piece, -float(number)) for number, piece in enumerate(pieces)]
    tokenizer = T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=512)
    tokenizer.save_pretrained(folder)
    return tokenizer


def t5(words: T5TokenizerFast, width: int) -> T5EncoderModel:
    config = T5Config(vocab_size=len(words), d_model=width, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    return T5EncoderModel(config)


@made_once
def stable_diffusion(folder: Path, prediction_type: str = "epsilon", pad: str = "<|endoftext|>") -> Path:
    """Stable Diffusion 1.x; 2.x predicts v and pads with "!"."""
    torch.manual_seed(0)
    text_encoder = CLIPTextModel(clip_config(write_tokenizer(folder / "tokenizer", pad), 8))
    unet = UNet2DConditionModel(**UNET, **ATTENDING, cross_attention_dim=8)
    schedule = PNDMScheduler(*BETAS, prediction_type=prediction_type)
    models = {"vae": kl(), "unet": unet, "text_encoder": text_encoder}
    return save(folder, "StableDiffusionPipeline", schedule, **models)


@made_once
def stable_diffusion_xl(folder: Path) -> Path:
    torch.manual_seed(0)
    first = clip_config(write_tokenizer(folder / "tokenizer", "<|endoftext|>"), 8)
    second = clip_config(write_tokenizer(folder / "tokenizer_2", "!"), 12, layers=3)
    unet = UNet2DConditionModel(
        **UNET,
        **ATTENDING,
        cross_attention_dim=20,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + second.projection_dim,
    )
    models = {
        "vae": kl(),
        "unet": unet,
        "text_encoder": CLIPTextModel(first),
        "text_encoder_2": CLIPTextModelWithProjection(second),
    }
    return save(folder, "StableDiffusionXLPipeline", EulerDiscreteScheduler(*BETAS), **models)


def flow_kl() -> AutoencoderKL:
    """An autoencoder as SD3 and FLUX have it: with a shift, without convolutions about the latent."""
    options = {"shift_factor": 0.06, "use_quant_conv": False, "use_post_quant_conv": False, "sample_size": 16}
    return AutoencoderKL(**KL, scaling_factor=1.3, **options)


@made_once
def stable_diffusion_3(folder: Path, with_t5: bool = True) -> Path:
    torch.manual_seed(0)
    first = clip_config(write_tokenizer(folder / "tokenizer", "<|endoftext|>"), 8)
    second = clip_config(write_tokenizer(folder / "tokenizer_2", "!"), 12, layers=3)
    transformer = SD3Transformer2DModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=24,
        caption_projection_dim=16,
        pooled_projection_dim=first.projection_dim + second.projection_dim,
        pos_embed_max_size=6,
    )
    models = {
        "vae": flow_kl(),
        "transformer": transformer,
        "text_encoder": CLIPTextModelWithProjection(first),
        "text_encoder_2": CLIPTextModelWithProjection(second),
    }
    if with_t5:
        models["text_encoder_3"] = t5(write_t5_tokenizer(folder / "tokenizer_3"), 24)
    return save(folder, "StableDiffusion3Pipeline", FlowMatchEulerDiscreteScheduler(shift=3.0), **models)


@made_once
def flux(folder: Path, guidance_embeds: bool = True) -> Path:
    """FLUX.1 dev, or schnell, which has no guidance and no dynamic shift."""
    torch.manual_seed(0)
    clip = clip_config(write_tokenizer(folder / "tokenizer", "<|endoftext|>"), 8)
    transformer = FluxTransformer2DModel(**FLUX, guidance_embeds=guidance_embeds)
    models = {
        "vae": flow_kl(),
        "transformer": transformer,
        "text_encoder": CLIPTextModel(clip),
        "text_encoder_2": t5(write_t5_tokenizer(folder / "tokenizer_2"), 24),
    }
    schedule = FlowMatchEulerDiscreteScheduler(
        shift=3.0 if guidance_embeds else 1.0, use_dynamic_shifting=guidance_embeds
    )
    return save(folder, "FluxPipeline", schedule, **models)
