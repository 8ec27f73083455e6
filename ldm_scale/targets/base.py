"""The interface every audited model offers, and the conversion of its output to noise."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

# What a target's own condition() returns and its predict_noise() takes: None, classes, text embeddings. A tensor or a
# tuple of them, with samples for a first dimension.
Condition = Any


@runtime_checkable
class Target(Protocol):
    """A latent diffusion model in eval mode, without gradients to its parameters."""

    image_size: int
    latent_shape: tuple[int, int, int]
    alphas_cumprod: Float[Tensor, " steps"]

    def weights(self) -> Iterator[Tensor]:
        """The parameters of all its models."""
        ...

    def encode(
        self, images: Float[Tensor, "n 3 H W"], noise: Float[Tensor, "n c h w"] | None
    ) -> Float[Tensor, "n c h w"]:
        """Images in [-1, 1] to scaled latents: (posterior mode [+ std * noise] - shift) * scale."""
        ...

    def decode(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Scaled latents to images, decode(z / scale + shift), never clamped."""
        ...

    def refusal(self, caption: str | None, label: int | None) -> str | None:
        """Why a sample with this caption and label has no condition of its own; None where it has."""
        ...

    def condition(self, captions: Sequence[str | None], labels: Sequence[int | None]) -> Condition:
        """What predict_noise takes for these samples; no caption is the empty prompt, no label the null class.

        Raises UsageError where the target has no null class.
        """
        ...

    def predict_noise(
        self, z: Float[Tensor, "n c h w"], t: Int[Tensor, " n"], condition: Condition
    ) -> Float[Tensor, "n c h w"]:
        """eps(z, t, c), the noise predicted at the training timestep t of each row, float32."""
        ...


def each_part(change: Callable[[Tensor], Tensor], condition: Condition) -> Condition:
    """A condition with each of its tensors changed."""
    if isinstance(condition, tuple):
        return tuple(change(part) for part in condition)
    return None if condition is None else change(condition)


def condition_of(condition: Condition, samples: Int[Tensor, " rows"]) -> Condition:
    """The condition of rows, each that of one of the samples."""
    return each_part(lambda part: part[samples], condition)


def by_row(values: Float[Tensor, " n"], like: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 1 1"]:
    """A number for each row, to multiply it with, in the precision of the rows."""
    return values.to(like).reshape(-1, 1, 1, 1)


def to_images(
    pixels: UInt8[np.ndarray, "n 3 H W"] | UInt8[Tensor, "n 3 H W"], device: torch.device
) -> Float[Tensor, "n 3 H W"]:
    """Pixels 0 ... 255 as the images every target takes, float32 in [-1, 1] on a device."""
    return torch.as_tensor(pixels).to(device).float() / 127.5 - 1


def to_noise(
    output: Float[Tensor, "n c h w"], z: Float[Tensor, "n c h w"], abar: Float[Tensor, " n"], prediction_type: str
) -> Float[Tensor, "n c h w"]:
    """A network's output as a noise prediction, where abar is of each row's timestep.

    epsilon: eps = output. v_prediction (Salimans & Ho 2022): v = sqrt(abar) eps - sqrt(1 - abar) x0, hence
    eps = sqrt(abar) v + sqrt(1 - abar) z.

    Raises ValueError for another prediction type.
    """
    if prediction_type == "epsilon":
        return output
    if prediction_type == "v_prediction":
        return by_row(abar.sqrt(), z) * output + by_row((1 - abar).sqrt(), z) * z
    raise ValueError(f"prediction type {prediction_type!r} is not supported")
