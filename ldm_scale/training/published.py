"""The networks of the paper's authors: from the weights that their scripts save to networks of ours.

Their files hold no configuration: widths and depths follow from the shapes, and what does not, heads and betas, is as
their scripts have it. Each network is found by a weight that it alone has, behind any prefix such as `module.`.
"""

from collections.abc import Callable, Mapping
from itertools import count, takewhile

import torch
from diffusers import ModelMixin, UNet2DModel
from torch import Tensor

from ldm_scale.files.parts import first_of
from ldm_scale.targets.class_token import ClassTokenUNet
from ldm_scale.targets.strided import StridedAutoencoder

StateDict = Mapping[str, Tensor]
AUTOENCODER, UNET, CLASS_TOKEN = "to_mu.weight", "input_blocks.0.0.weight", "conv_in.weight"
TOKENS = "class_embed.weight"
# Their groups of a GroupNorm are 32 if that divides the width, and the U-Nets of diffusers have one number of groups.
GROUPS = 32
COLOURS = 3
# Resolutions, and blocks of each, of a U-Net; theirs have 4 and 2.
DEEPEST = 16
BETAS = {UNET: (1e-4, 0.02), CLASS_TOKEN: (1.5e-3, 1.95e-2)}


class Misfit(Exception):
    """The weights do not make the network; says why."""


def _network(weights: StateDict, mark: str) -> dict[str, Tensor] | None:
    """The weights of the network that has the mark, without their prefix; None if there is none.

    Of several that of an average (`ema`) is taken.
    """
    prefixes = [name.removesuffix(mark) for name in weights if f".{name}".endswith(f".{mark}")]
    if not prefixes:
        return None
    prefix = min(prefixes, key=lambda prefix: ("ema" not in prefix, len(prefix), prefix))
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}


def _width(weights: StateDict, name: str, axis: int = 0) -> int:
    """The length of an axis of a weight that is there."""
    if name not in weights:
        raise Misfit(f"{name} is missing")
    if weights[name].dim() <= axis or not weights[name].numel():
        raise Misfit(f"{name} has the shape {[*weights[name].shape]}")
    return weights[name].shape[axis]


def _depth(weights: StateDict, name: Callable[[int], str]) -> int:
    """How many of name(0), name(1), ... are there, one after the other."""
    depth = sum(1 for _ in takewhile(lambda number: name(number) in weights, count()))
    if not 1 <= depth <= DEEPEST:
        raise Misfit(f"{name(0)} is missing" if depth == 0 else f"it has more than {DEEPEST} of {name(0)}")
    return depth


def _check_groups(widths: tuple[int, ...]) -> tuple[int, ...]:
    if odd := [width for width in widths if width % GROUPS]:
        raise Misfit(f"its width {odd[0]} is no multiple of {GROUPS}")
    return widths


def _fit(model: ModelMixin, weights: StateDict, name: Callable[[str], str]) -> ModelMixin:
    """A model of shapes alone, given the weights that have its names, none more and none less."""
    wanted = {name(own): (own, weight.shape) for own, weight in model.state_dict().items()}
    shapes = (
        f"{key} is {[*weights[key].shape]}, not {[*shape]}"
        for key, (_, shape) in wanted.items()
        if key in weights and weights[key].shape != shape
    )
    faults = {
        "missing: ": sorted(wanted.keys() - weights.keys()),
        "unexpected: ": sorted(weights.keys() - wanted.keys()),
        "": sorted(shapes),
    }
    if any(faults.values()):
        raise Misfit("; ".join(f"{what}{first_of(names, ', ')}" for what, names in faults.items() if names))
    model.load_state_dict({own: weights[key] for key, (own, _) in wanted.items()}, assign=True)
    return model


def _autoencoder_name(own: str) -> str:
    heads = {"encoder": "enc", "decoder": "dec", "from_latent": "dec_in", "to_mean": "to_mu"}
    head, _, rest = own.partition(".")
    return f"{heads.get(head, 'to_logvar')}.{rest}".replace(".layers.", ".block.")


def _unet_name(layers: int) -> Callable[[str], str]:
    """Their name of a weight of a UNet2DModel: the blocks of a direction are counted through."""
    ends = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    inner = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip",
    }

    def name(own: str) -> str:
        place, _, kind = own.rpartition(".")
        if place in ends:
            return f"{ends[place]}.{kind}"
        parts = place.split(".")
        if parts[0] == "mid_block":
            return f"middle_block.{parts[2]}.{inner[parts[3]]}.{kind}"
        level, part, number, last = int(parts[1]), *parts[2:5]
        block = level * (layers + 1) + int(number)
        match parts[0], part:
            case "down_blocks", "resnets":
                return f"input_blocks.{1 + block}.0.{inner[last]}.{kind}"
            case "down_blocks", _:
                return f"input_blocks.{1 + block + layers}.0.op.{kind}"
            case _, "resnets":
                return f"output_blocks.{block}.0.{inner[last]}.{kind}"
        return f"output_blocks.{block + layers}.1.conv.{kind}"

    return name


def _make_autoencoder(weights: StateDict, size: int) -> ModelMixin:
    widths = tuple(_width(weights, f"enc.{number}.weight") for number in (0, 2, 4))
    if (channels := _width(weights, "enc.0.weight", 1)) != COLOURS:
        raise Misfit(f"it takes images of {channels} channels, and images are audited in {COLOURS}")
    model = StridedAutoencoder(
        in_channels=channels,
        latent_channels=_width(weights, "to_mu.weight"),
        block_out_channels=widths,
        sample_size=size,
    )
    return _fit(model, weights, _autoencoder_name)


def _make_unet(weights: StateDict, side: int) -> ModelMixin:
    def conv(block: int) -> str:
        return f"input_blocks.{1 + block}.0.in_layers.2.weight"

    layers = _depth(weights, conv)
    levels = _depth(weights, lambda level: conv(level * (layers + 1)))
    channels = _width(weights, UNET, 1)
    model = UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        block_out_channels=_check_groups(tuple(_width(weights, conv(level * (layers + 1))) for level in range(levels))),
        layers_per_block=layers,
        norm_num_groups=GROUPS,
        add_attention=False,
    )
    return _fit(model, weights, _unet_name(layers))


def _make_class_token(weights: StateDict, side: int) -> ModelMixin:
    def conv(level: int, number: int = 0) -> str:
        return f"down_blocks.{level}.resnets.{number}.conv1.weight"

    levels = _depth(weights, conv)
    attending = sum(f"down_blocks.{level}.attentions.0.norm.weight" in weights for level in range(levels))
    channels = _width(weights, CLASS_TOKEN, 1)
    model = ClassTokenUNet(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=_check_groups(tuple(_width(weights, conv(level)) for level in range(levels))),
        layers_per_block=_depth(weights, lambda number: conv(0, number)),
        attending=attending,
        norm_num_groups=GROUPS,
        token_width=_width(weights, TOKENS, 1),
        num_class_embeds=_width(weights, TOKENS),
    )
    return _fit(model, weights, lambda own: TOKENS if own == "tokens.weight" else own.removeprefix("unet."))


def find_autoencoder(weights: StateDict, size: int) -> ModelMixin:
    """The from-scratch autoencoder in the weights of a file, for images of this side.

    Raises:
        Misfit: There is none, or its weights are not those of such an autoencoder.
    """
    found = _network(weights, AUTOENCODER)
    if found is None:
        raise Misfit(f"no weight is called {AUTOENCODER}")
    with torch.device("meta"):
        return _make_autoencoder(found, size)


def find_unet(weights: StateDict, side: int) -> tuple[ModelMixin, tuple[float, float]]:
    """The from-scratch or class-token U-Net in the weights of a file, for latents of this side, and its betas' ends.

    Raises:
        Misfit: There is none, or its weights are not those of such a U-Net.
    """
    with torch.device("meta"):
        if (found := _network(weights, UNET)) is not None:
            return _make_unet(found, side), BETAS[UNET]
        if (found := _network(weights, CLASS_TOKEN)) is not None:
            # They save it beside the U-Net.
            if (beside := _network(weights, TOKENS)) is not None:
                found[TOKENS] = beside[TOKENS]
            return _make_class_token(found, side), BETAS[CLASS_TOKEN]
    raise Misfit(f"no weight is called {UNET} or {CLASS_TOKEN}")
