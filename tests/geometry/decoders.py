"""Small decoders of every kind that the geometry meets, and the Jacobian of each by torch's own reference."""

import copy

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny, VQModel
from torch import Tensor, nn

from ldm_scale.geometry.pullback import TracedDecoder

SHAPE = (2, 2, 2)
IMAGE = (3, 4, 4)


def normal(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def latents(n: int = 3, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return normal(n, *shape, seed=7)


class LinearDecoder(nn.Module):
    """x = A z + b as an image: J is A, and G is A^T A, whatever z."""

    def __init__(self, matrix: Tensor, image: tuple[int, ...] = IMAGE) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.image = image

    def forward(self, z: Tensor) -> Tensor:
        return (z.flatten(1) @ self.matrix.T + 0.3).unflatten(1, self.image)


def linear_decoder() -> LinearDecoder:
    return LinearDecoder(normal(48, 8, seed=0))


def spectral_decoder(values: Tensor) -> LinearDecoder:
    """A linear decoder of these singular values and random singular vectors, to images of (3, 8, D / 8)."""
    left = torch.linalg.qr(normal(3 * len(values), len(values), seed=1).double()).Q
    right = torch.linalg.qr(normal(len(values), len(values), seed=2).double()).Q
    return LinearDecoder((left * values @ right.T).float(), (3, 8, len(values) // 8))


def conv_decoder(channels: int = 2) -> nn.Module:
    """A nonlinear decoder with GroupNorm that doubles the size."""
    torch.manual_seed(1)
    layers = [
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(8, 3, 3, padding=1),
    ]
    return nn.Sequential(*layers)


class AttentionDecoder(nn.Module):
    """One head of fused attention over the pixels, each of which becomes a row of the image."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.qkv = nn.Linear(channels, 3 * 8)
        self.out = nn.Linear(8, 12)

    def forward(self, z: Tensor) -> Tensor:
        q, k, v = self.qkv(z.flatten(2).transpose(1, 2)).chunk(3, dim=-1)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed).transpose(1, 2).reshape(len(z), 3, z.shape[2] * 2, -1)


class Autoencoder(nn.Module):
    """The decoder half of one of diffusers' autoencoders."""

    def __init__(self, model: nn.Module, **options: bool) -> None:
        super().__init__()
        self.model, self.options = model, options

    def forward(self, z: Tensor) -> Tensor:
        return self.model.decode(z, **self.options).sample


def kl_decoder(channels: int = 2) -> Autoencoder:
    """Stable Diffusion's kind: GroupNorm, and attention in the middle, which hands on channels-last tensors."""
    torch.manual_seed(3)
    return Autoencoder(AutoencoderKL(**two_blocks(channels), mid_block_add_attention=True))


def vq_decoder() -> Autoencoder:
    torch.manual_seed(4)
    return Autoencoder(VQModel(**two_blocks(2)), force_not_quantize=True)


def two_blocks(channels: int) -> dict[str, object]:
    return {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 8),
        "latent_channels": channels,
        "norm_num_groups": 4,
    }


def tiny_decoder() -> Autoencoder:
    torch.manual_seed(5)
    blocks = {f"{half}_block_out_channels": (8, 8) for half in ("encoder", "decoder")}
    counts = {f"num_{half}_blocks": (1, 1) for half in ("encoder", "decoder")}
    return Autoencoder(AutoencoderTiny(**blocks, **counts, latent_channels=2))


def dc_decoder() -> Autoencoder:
    """SANA's kind: RMS norm and linear attention."""
    torch.manual_seed(6)
    options: dict[str, object] = {"latent_channels": 2, "attention_head_dim": 4}
    for half in ("encoder", "decoder"):
        options[f"{half}_block_types"] = ("ResBlock", "EfficientViTBlock")
        options[f"{half}_block_out_channels"] = (8, 8)
        options[f"{half}_layers_per_block"] = (1, 1)
        options[f"{half}_qkv_multiscales"] = ((), (5,))
    return Autoencoder(AutoencoderDC(**options))


def frozen(decoder: nn.Module) -> TracedDecoder:
    """One for all tests, which need no trace of a shape that another test has."""
    return TracedDecoder(decoder.eval().requires_grad_(False))


# All from (2, 2, 2) to (3, 4, 4): 8 dimensions, 48 values.
DECODERS = {
    "linear": frozen(linear_decoder()),
    "conv": frozen(conv_decoder()),
    "attention": frozen(AttentionDecoder()),
    "AutoencoderKL": frozen(kl_decoder()),
    "VQModel": frozen(vq_decoder()),
    "AutoencoderTiny": frozen(tiny_decoder()),
    "AutoencoderDC": frozen(dc_decoder()),
}

# What only knows a decoder by its products meets these three; test_pullback proves products with each kind.
SIMPLE = ("linear", "conv", "attention")

WIDE = (4, 4, 4)
INDEX = torch.arange(64, dtype=torch.float64)

# All of 64 latent dimensions, more than the 50 tangents of the truncated distortion.
WIDE_DECODERS = {
    "flat": frozen(spectral_decoder(torch.full((64,), 2.0, dtype=torch.float64))),
    "exponential": frozen(spectral_decoder(0.9**INDEX)),
    "harmonic": frozen(spectral_decoder(1 / (1 + INDEX))),
    "conv": frozen(conv_decoder(4)),
    "attention": frozen(AttentionDecoder(4)),
    "AutoencoderKL": frozen(kl_decoder(4)),
}
WIDE_SIMPLE = [name for name in WIDE_DECODERS if name != "AutoencoderKL"]


def jacobians(decode: nn.Module | TracedDecoder, z: Tensor) -> Tensor:
    """J of each sample in float64, (n, M, D), by torch's reverse-mode reference."""
    module = decode.decode if isinstance(decode, TracedDecoder) else decode
    double = copy.deepcopy(module).double()
    rows = [torch.autograd.functional.jacobian(lambda x: double(x[None])[0], sample) for sample in z.double()]
    return torch.stack(rows).reshape(len(z), -1, z[0].numel())
