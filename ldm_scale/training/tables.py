"""What a worker trains on, as one tensor of all its samples: in memory, or in a file if it does not fit."""

import itertools
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from ldm_scale.files.space import check_room, room_at
from ldm_scale.randomness import keyed_generator
from ldm_scale.targets.autoencoder import Autoencoder
from ldm_scale.targets.base import to_images

# What to do about a disk that has no room for a table.
REMEDY = "set TMPDIR on the nodes to a folder that has it, or give them more memory"


@dataclass(frozen=True)
class Turn:
    """A sample's turn: the sample's number, in which epoch, and whether it is mirrored."""

    number: int
    epoch: int
    mirrored: bool


def turns(count: int, seed: int, name: str, first: int, flip: bool) -> Iterator[Turn]:
    """Every sample once an epoch, in another order in each, without end.

    Args:
        count: samples; their numbers are 0 to count - 1.
        seed: of the training.
        name: of these turns; others of the same seed are independent.
        first: how many turns are left out at the beginning: those that were taken already.
        flip: whether half of all turns, at random, are of the mirrored image.
    """
    for epoch in itertools.count(first // count):
        random = keyed_generator(seed, name, f"epoch {epoch}")
        order, mirrored = random.permutation(count), random.random(count) < (0.5 if flip else 0)
        taken = max(0, first - epoch * count)
        for number, mirror in zip(order[taken:].tolist(), mirrored[taken:].tolist(), strict=True):
            yield Turn(number, epoch, mirror)


def allot(shape: tuple[int, ...], dtype: torch.dtype, memory: int) -> Tensor:
    """A tensor to be filled: in memory if it takes at most so many bytes, else in a file that nobody else sees.

    Raises:
        RunError: The disk of temporary files has no room for it, either.
    """
    size = math.prod(shape) * dtype.itemsize
    if size <= memory:
        return torch.empty(shape, dtype=dtype)
    folder = tempfile.gettempdir()
    check_room(folder, size, REMEDY)
    # Others may take the room first: the node's other workers ask for as much at the same time.
    with room_at(folder, REMEDY), tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)
        return torch.from_numpy(np.memmap(file, torch.empty(0, dtype=dtype).numpy().dtype, "r+", shape=shape))


def collect(pieces: Iterable[Tensor], count: int, memory: int) -> Tensor:
    """Pieces of `count` rows in all, at least one, as one tensor that `allot` places.

    Raises:
        RunError: Neither memory nor disk holds it.
    """
    table, start = None, 0
    for piece in pieces:
        if table is None:
            table = allot((count, *piece.shape[1:]), piece.dtype, memory)
        table[start : start + len(piece)] = piece
        start += len(piece)
    assert table is not None
    return table


# What a network is trained on, by the numbers of samples, whether each is mirrored, and a device.
Table = Callable[[Int[Tensor, " b"], Bool[Tensor, " b"], torch.device], Float[Tensor, "b c h w"]]


class Images:
    """Pixels, given as images in [-1, 1]."""

    def __init__(self, pixels: UInt8[Tensor, "n 3 H W"]) -> None:
        self.pixels = pixels

    def __call__(
        self, numbers: Int[Tensor, " b"], mirrored: Bool[Tensor, " b"], device: torch.device
    ) -> Float[Tensor, "b 3 H W"]:
        images = to_images(self.pixels[numbers], device)
        return torch.where(mirrored.to(device)[:, None, None, None], images.flip(-1), images)


class Latents:
    """Posteriors of a frozen autoencoder, given as scaled latents: their mean, or each time another sample.

    Args:
        moments: of each sample, of its image and, if there are flips, of the mirrored one: mean and, if samples are
            drawn, standard deviation.
    """

    def __init__(self, moments: Float[Tensor, "n mirrors moments c h w"]) -> None:
        self._moments = moments

    def __call__(
        self, numbers: Int[Tensor, " b"], mirrored: Bool[Tensor, " b"], device: torch.device
    ) -> Float[Tensor, "b c h w"]:
        mean, *deviation = self._moments[numbers, mirrored.long()].to(device).unbind(1)
        return mean + deviation[0] * torch.randn_like(mean) if deviation else mean


@torch.no_grad()
def posteriors(
    pixels: Iterable[Tensor], autoencoder: Autoencoder, flip: bool, sample: bool, device: torch.device
) -> Iterator[Tensor]:
    """What `Latents` are made of, in float32, some images after the other.

    Args:
        pixels: uint8 (b, 3, H, W), of as many images as are encoded at once.
        autoencoder: frozen, on the device.
        flip: whether the mirrored images are encoded, too.
        sample: whether standard deviations are wanted.
        device: on which images are encoded.
    """
    for some in pixels:
        images = to_images(some, device)
        views = [images, images.flip(-1)] if flip else [images]
        moments = [torch.stack(autoencoder.posterior(view)[: 1 + sample], dim=1) for view in views]
        yield torch.stack(moments, dim=1).cpu()
