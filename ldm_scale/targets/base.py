"""The interface that every audited model offers, and the conversion of its output to noise."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

# What a target's condition() returns and its predict_noise() takes: None, or a tensor (classes, text embeddings) or a
# tuple of tensors, whose first dimension are the samples.
ConditionTensors = Any
# 0 to 255.
Pixels = UInt8[np.ndarray, "n 3 H W"] | UInt8[Tensor, "n 3 H W"]
# That of captions, if text encoders give an embedding a token and a pooled one.
Embeddings = tuple[Float[Tensor, "n tokens width"], Float[Tensor, "n pooled"]]


@runtime_checkable
class Target(Protocol):
    """A latent diffusion model in eval mode, without gradients to its parameters.

    Attributes:
        image_size: height and width of its images, in pixels.
        latent_shape: (c, h, w).
        alphas_cumprod: abar_t of its training timesteps, 0 to 1.
    """

    image_size: int
    latent_shape: tuple[int, int, int]
    alphas_cumprod: Float[Tensor, " steps"]

    def weights(self) -> Iterator[Tensor]:
        """The parameters of all its models."""

    def encode(
        self, images: Float[Tensor, "n 3 H W"], noise: Float[Tensor, "*k n c h w"] | None
    ) -> Float[Tensor, "*k n c h w"]:
        """Images in [-1, 1] to scaled latents: (latent - shift) * scale.

        The latent is the posterior's mode, or mean + std * noise if noise is given; k of one posterior for k noises.
        """

    def decode(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Scaled latents to images, decode(z / scale + shift), never clamped."""

    def refusal(self, caption: str | None, label: int | None) -> str | None:
        """Why a sample with this caption and label has no condition of its own; None if it has one."""

    def condition(self, captions: Sequence[str | None], labels: Sequence[int | None]) -> ConditionTensors:
        """What predict_noise takes for these samples; no caption is the empty prompt, no label the null class.

        Raises:
            UsageError: There is no label and the target has no null class.
        """

    def predict_noise(
        self, z: Float[Tensor, "n c h w"], t: Int[Tensor, " n"], condition: ConditionTensors
    ) -> Float[Tensor, "n c h w"]:
        """eps(z, t, c): the noise predicted at each row's training timestep t, float32."""


def each_part(change: Callable[[Tensor], Tensor], condition: ConditionTensors) -> ConditionTensors:
    """A condition with a change made to each of its tensors."""
    if isinstance(condition, tuple):
        return tuple(change(part) for part in condition)
    return None if condition is None else change(condition)


def condition_of(condition: ConditionTensors, samples: Int[Tensor, " rows"]) -> ConditionTensors:
    """The condition of rows; row i is one of sample samples[i]."""
    return each_part(lambda part: part[samples], condition)


def by_row(values: Float[Tensor, " n"], like: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 1 1"]:
    """A factor for each row, shaped to multiply rows like these, in their precision."""
    return values.to(like).reshape(-1, 1, 1, 1)


def to_images(pixels: Pixels, device: torch.device) -> Float[Tensor, "n 3 H W"]:
    """Pixels 0 ... 255 as the images that every target takes: float32 in [-1, 1], on a device."""
    return torch.as_tensor(pixels).to(device).float() / 127.5 - 1


def to_noise(
    output: Float[Tensor, "n c h w"], z: Float[Tensor, "n c h w"], abar: Float[Tensor, " n"], prediction_type: str
) -> Float[Tensor, "n c h w"]:
    """A network's output as a noise prediction.

    epsilon: eps = output. v_prediction (Salimans & Ho 2022): v = sqrt(abar) eps - sqrt(1 - abar) x0, hence
    eps = sqrt(abar) v + sqrt(1 - abar) z.

    Args:
        output: of the network for z.
        z: noisy latents.
        abar: abar_t at each row's timestep.
        prediction_type: epsilon or v_prediction, as diffusers' schedulers name them.

    Raises:
        ValueError: It is another prediction type.

    Example:
        >>> output, z = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 5.0)
        >>> to_noise(output, z, torch.tensor([0.36]), "v_prediction").flatten()  # 0.6 * 2 + 0.8 * 5
        tensor([5.2000])
    """
    if prediction_type == "epsilon":
        return output
    if prediction_type == "v_prediction":
        return by_row(abar.sqrt(), z) * output + by_row((1 - abar).sqrt(), z) * z
    raise ValueError(f"prediction type {prediction_type!r} is not supported")
