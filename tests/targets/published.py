"""The networks of the paper's authors in plain torch, by their description; names of weights are as they have them."""

import math

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

# The widths of the tiny ones: 8, 8, 16 and 32, 64; both halve their images and latents.
BASE, WIDTH, MULTIPLES = 8, 32, (1, 2)
CLASSES = 5


def norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(width, 32), width)


def conv(inside: int, outside: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, stride=stride, padding=1)


class Block(nn.Module):
    """The autoencoder's residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = [[norm(width), nn.SiLU(), conv(width, width)] for _ in range(2)]
        self.block = nn.Sequential(*half[0], nn.Dropout(0.1), *half[1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Autoencoder(nn.Module):
    """Widths base, base, 2 base; strided convolutions down, transposed ones up; 4 latent channels."""

    def __init__(self, base: int) -> None:
        super().__init__()
        low = 2 * base
        halves = (conv(base, base, 2), conv(base, low, 2))
        self.enc = nn.Sequential(conv(3, base), Block(base), halves[0], Block(base), halves[1], Block(low))
        self.to_mu, self.to_logvar = nn.Conv2d(low, 4, 1), nn.Conv2d(low, 4, 1)
        self.dec_in = nn.Conv2d(4, low, 1)
        doubles = [nn.ConvTranspose2d(inside, base, 4, stride=2, padding=1) for inside in (low, base)]
        ending = (norm(base), nn.SiLU(), conv(base, 3))
        self.dec = nn.Sequential(Block(low), doubles[0], Block(base), doubles[1], Block(base), *ending)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance."""
        features = self.enc(x)
        return self.to_mu(features), self.to_logvar(features)

    def decode(self, z: Tensor) -> Tensor:
        return self.dec(self.dec_in(z))


class TimedBlock(nn.Module):
    """The U-Net's residual block: the time is added between its halves."""

    def __init__(self, inside: int, outside: int, time: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(norm(inside), nn.SiLU(), conv(inside, outside))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, outside))
        self.out_layers = nn.Sequential(norm(outside), nn.SiLU(), nn.Dropout(0.1), conv(outside, outside))
        self.skip = nn.Identity() if inside == outside else nn.Conv2d(inside, outside, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.skip(x) + self.out_layers(self.in_layers(x) + self.emb_layers(time)[:, :, None, None])


class Halve(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = conv(width, width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Double(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3))


class UNet(nn.Module):
    """Widths width * multiples, two blocks a resolution on the way down and three on the way up, no attention."""

    def __init__(self, width: int, multiples: tuple[int, ...], layers: int = 2) -> None:
        super().__init__()
        time, last = 4 * width, len(multiples) - 1
        self.width = width
        self.time_embed = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        down: list[list[nn.Module]] = [[conv(4, width)]]
        at, kept = width, [width]
        for level, multiple in enumerate(multiples):
            for _ in range(layers):
                down.append([TimedBlock(at, width * multiple, time)])
                kept.append(at := width * multiple)
            if level < last:
                down.append([Halve(at)])
                kept.append(at)
        up: list[list[nn.Module]] = []
        middle = at
        for level, multiple in reversed([*enumerate(multiples)]):
            for number in range(layers + 1):
                block = TimedBlock(at + kept.pop(), width * multiple, time)
                at = width * multiple
                up.append([block, Double(at)] if level and number == layers else [block])
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, down))
        self.middle_block = nn.ModuleList([TimedBlock(middle, middle, time) for _ in range(2)])
        self.output_blocks = nn.ModuleList(map(nn.ModuleList, up))
        self.out = nn.Sequential(norm(at), nn.SiLU(), conv(at, 4))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        rates = torch.exp(-math.log(10_000) * torch.arange(self.width // 2) / (self.width // 2))
        angles = t[:, None].float() * rates
        time = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))

        def run(layers: nn.Module, x: Tensor) -> Tensor:
            for layer in layers.children():
                x = layer(x, time) if isinstance(layer, TimedBlock) else layer(x)
            return x

        kept = [x := run(block, x) for block in self.input_blocks]
        x = run(self.middle_block, x)
        for block in self.output_blocks:
            x = run(block, torch.cat([x, kept.pop()], dim=1))
        return self.out(x)


def class_token_unet(widths: tuple[int, ...], layers: int) -> UNet2DConditionModel:
    """Diffusers' U-Net with 8 heads, whose resolutions but the highest attend to what is 512 numbers wide."""
    attending = len(widths) - 1
    return UNet2DConditionModel(
        sample_size=4,
        block_out_channels=widths,
        layers_per_block=layers,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * attending),
        up_block_types=(*("CrossAttnUpBlock2D",) * attending, "UpBlock2D"),
        cross_attention_dim=512,
        attention_head_dim=8,
    )


def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(BASE).eval()


def unet() -> UNet:
    torch.manual_seed(1)
    return UNet(WIDTH, MULTIPLES).eval()


def class_token() -> tuple[UNet2DConditionModel, nn.Embedding]:
    torch.manual_seed(2)
    return class_token_unet((WIDTH, 2 * WIDTH), 1).eval(), nn.Embedding(CLASSES, 512)
