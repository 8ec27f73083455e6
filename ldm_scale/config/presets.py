"""Named recipes of `ldm-scale train`: values that stand below the file and the flags.

`cifar10`, `celeba`, `imagenet` and `finetune` train as the authors of arXiv 2511.20592 did, by their published code;
what is smaller, and `lora`, is ours.
"""

from typing import Any

# The authors' from-scratch stages.
_STAGE = {"rate": 2e-4, "decay": "constant", "weight_decay": 1e-4, "clip": 1.0, "dropout": 0.1}
_AUTOENCODER = {**_STAGE, "kind": "strided", "channels": (128, 128, 256), "layers": 1, "epochs": 120, "scaled": False}
_DENOISER = {**_STAGE, "layers": 2, "attention": 0}
_CELEBA = {"size": 64, "images": {"crop": 140, "filter": "bilinear"}}
# Ours.
_SMALL_AUTOENCODER = {"channels": (64, 128, 256), "layers": 2, "rate": 3e-4}
_SMALL_DENOISER = {"layers": 2, "attention": 2, "batch": 128, "rate": 2e-4, "ema": 0.9999}

PRESETS: dict[str, dict[str, Any]] = {
    # The shipped demo target. Every other option's default is its value.
    "demo": {"denoiser": {"latent": "sample"}},
    # 25,000 members: 23,438 and 400,000 steps.
    "cifar10": {
        "size": 32,
        "flip": True,
        "half": False,
        "autoencoder": {**_AUTOENCODER, "batch": 128, "kl_weight": 1e-2},
        "denoiser": {**_DENOISER, "channels": (128, 256, 256, 256), "epochs": 2048, "batch": 128},
    },
    # About 80,000 members (half of the training images): 37,500 and 160,000 steps.
    "celeba": {
        **_CELEBA,
        "flip": True,
        "half": False,
        "autoencoder": {**_AUTOENCODER, "batch": 256, "kl_weight": 1e-3},
        "denoiser": {**_DENOISER, "channels": (224, 448, 672, 896), "epochs": 512, "batch": 256},
    },
    # 50,000 members: 238,095 steps on a frozen sd-vae-ft-mse.
    "imagenet": {
        "size": 256,
        "flip": True,
        "half": False,
        "precision": "float16",
        "denoiser": {
            "kind": "class-token",
            "classes": True,
            "channels": (192, 384, 576, 960),
            "layers": 2,
            "attention": 3,
            "epochs": 600,
            "batch": 126,
            "rate": 1e-4,
            "decay": "cosine",
            "warmup": 1000,
            "clip": 0,
            "betas": (1.5e-3, 1.95e-2),
        },
    },
    # Stable Diffusion v1-4 on captions: 2,500 members of MS-COCO take 50,000 steps, 10,000 of Flickr30k 200,000.
    "finetune": {
        "size": 512,
        "flip": True,
        "half": False,
        "images": {"filter": "lanczos"},
        "captions": "random",
        "precision": "float16",
        "denoiser": {
            "epochs": 80,
            "batch": 4,
            "accumulate": 4,
            "rate": 1e-5,
            "decay": "constant",
            "weight_decay": 1e-2,
            "ema": 0.9999,
            "latent": "sample",
        },
    },
    "lora": {
        "size": 512,
        "images": {"filter": "bilinear"},
        "lora_rank": 4,
        "denoiser": {"epochs": 100, "batch": 4, "rate": 1e-4},
    },
    # 25,000 members: 20,000 and 400,000 steps.
    "cifar10-small": {
        "size": 32,
        "autoencoder": {**_SMALL_AUTOENCODER, "epochs": 100, "batch": 128, "kl_weight": 1e-2},
        "denoiser": {**_SMALL_DENOISER, "channels": (128, 256, 256), "epochs": 2048},
    },
    # About 80,000 members: 40,000 and 320,000 steps.
    "celeba-small": {
        **_CELEBA,
        "autoencoder": {**_SMALL_AUTOENCODER, "epochs": 32, "batch": 64, "kl_weight": 1e-3},
        "denoiser": {**_SMALL_DENOISER, "channels": (128, 256, 384), "epochs": 512},
    },
    # 50,000 members: 80,000 steps on a frozen sd-vae-ft-mse.
    "imagenet-small": {
        "size": 256,
        "denoiser": {
            **_SMALL_DENOISER,
            "classes": True,
            "channels": (192, 384, 576, 768),
            "attention": 3,
            "epochs": 400,
            "batch": 256,
            "rate": 1e-4,
        },
    },
}

# The option without which a preset cannot be what it says.
NEEDED = {
    "imagenet": "autoencoder.pretrained",
    "imagenet-small": "autoencoder.pretrained",
    "finetune": "base",
    "lora": "base",
}
