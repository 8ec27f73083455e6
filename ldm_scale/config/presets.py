"""Named recipes of `ldm-scale train`: values that stand below the file and the flags.

From the paper: what is trained, the autoencoder's two downsamplings and 4 channels, the weights of the KL term, and
the preprocessing. Widths, epochs, batch sizes, rates and averages are ours: the paper does not give them.
"""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # The shipped demo target. Every option's default is its value.
    "demo": {},
    # 25,000 members: 20,000 and 400,000 steps.
    "cifar10": {
        "size": 32,
        "autoencoder": {
            "channels": (64, 128, 256),
            "layers": 2,
            "epochs": 100,
            "batch": 128,
            "rate": 3e-4,
            "kl_weight": 1e-2,
        },
        "denoiser": {
            "channels": (128, 256, 256),
            "layers": 2,
            "attention": 2,
            "epochs": 2048,
            "batch": 128,
            "rate": 2e-4,
            "ema": 0.9999,
        },
    },
    # About 80,000 members (half of the training images): 40,000 and 320,000 steps.
    "celeba": {
        "size": 64,
        "images": {"crop": 140, "filter": "bilinear"},
        "autoencoder": {
            "channels": (64, 128, 256),
            "layers": 2,
            "epochs": 32,
            "batch": 64,
            "rate": 3e-4,
            "kl_weight": 1e-3,
        },
        "denoiser": {
            "channels": (128, 256, 384),
            "layers": 2,
            "attention": 2,
            "epochs": 512,
            "batch": 128,
            "rate": 2e-4,
            "ema": 0.9999,
        },
    },
    # 50,000 members: 80,000 steps on a frozen sd-vae-ft-mse.
    "imagenet": {
        "size": 256,
        "denoiser": {
            "classes": True,
            "channels": (192, 384, 576, 768),
            "layers": 2,
            "attention": 3,
            "epochs": 400,
            "batch": 256,
            "rate": 1e-4,
            "ema": 0.9999,
        },
    },
    # Stable Diffusion v1-4 on captions.
    "finetune": {
        "size": 512,
        "images": {"filter": "bilinear"},
        "denoiser": {"epochs": 100, "batch": 4, "rate": 1e-5, "ema": 0.9999},
    },
    "lora": {
        "size": 512,
        "images": {"filter": "bilinear"},
        "lora_rank": 4,
        "denoiser": {"epochs": 100, "batch": 4, "rate": 1e-4},
    },
}

# The option without which a preset cannot be what it says.
NEEDED = {"imagenet": "autoencoder.pretrained", "finetune": "base", "lora": "base"}
