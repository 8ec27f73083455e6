"""How a trained target is stored: in diffusers' layout, safetensors only, with a record of its training."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin, UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils import convert_state_dict_to_diffusers
from peft.utils import get_peft_model_state_dict
from torch import nn

from ldm_scale.targets.intake import read_files
from ldm_scale.targets.layout import COMPONENTS
from ldm_scale.training.models import Models

RECORD = "training.json"


def save_target(folder: Path, models: Models, half: bool, record: dict[str, Any]) -> None:
    """Write what was trained: a target's folder, or LoRA weights for its base.

    Args:
        folder: of the target, empty.
        models: their networks are converted to the precision that is stored.
        half: whether that is float16, not float32.
        record: of the training, written as training.json; `classes` are the names of the classes it is conditional on.
    """
    dtype = torch.float16 if half else torch.float32
    if getattr(models.denoiser, "peft_config", None):
        # As StableDiffusionPipeline.load_lora_weights reads it.
        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(models.denoiser.to(dtype)))
        StableDiffusionLoraLoaderMixin.save_lora_weights(folder, unet_lora_layers=layers, safe_serialization=True)
    else:
        _save_components(folder, models, dtype, record.get("classes", ()))
    (folder / RECORD).write_text(json.dumps(record, indent=1))


def _save_components(folder: Path, models: Models, dtype: torch.dtype, classes: Sequence[str]) -> None:
    for name, source in models.copied.items():
        (folder / name).mkdir(parents=True)
        for path in read_files(source, COMPONENTS[name]):
            shutil.copyfile(path, folder / name / path.name)
    _save_model(models.denoiser, folder / "unet", dtype)
    index: dict[str, Any]
    if isinstance(models.denoiser, UNet2DConditionModel):
        index = _stable_diffusion(folder)
    else:
        if "vqvae" not in models.copied:
            _save_model(models.autoencoder, folder / "vqvae", dtype)
        models.schedule.save_pretrained(folder / "scheduler")
        index = {
            "_class_name": "LDMPipeline",
            "vqvae": _home(models.autoencoder),
            "unet": _home(models.denoiser),
            "scheduler": ["diffusers", "DDPMScheduler"],
        }
    if classes:
        # As DiT pipelines name their classes.
        index["id2label"] = {str(number): name for number, name in enumerate(classes)}
    (folder / "model_index.json").write_text(json.dumps(index, indent=1))


def _save_model(model: ModelMixin, folder: Path, dtype: torch.dtype) -> None:
    # torch's own method: diffusers' warns of the cast, even of models such as ours, with no layer to keep float32.
    nn.Module.to(model, dtype)
    model.save_pretrained(folder, safe_serialization=True)


def _home(model: ModelMixin) -> list[str]:
    """The library and the class of a model, as diffusers' index of a pipeline names them."""
    return [type(model).__module__.partition(".")[0], type(model).__name__]


def _stable_diffusion(folder: Path) -> dict[str, Any]:
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    return {
        "_class_name": "StableDiffusionPipeline",
        "vae": ["diffusers", "AutoencoderKL"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
