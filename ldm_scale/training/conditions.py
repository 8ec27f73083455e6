"""What a denoiser is given of a training sample beside its noisy latent: nothing, its class, or its caption."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ldm_scale.targets.text import TextEncoder


@dataclass(frozen=True)
class Batch:
    """Images in [-1, 1] or scaled latents, each with the class index and the caption that the shards give, or None."""

    inputs: Float[Tensor, "n c h w"]
    labels: list[int | None]
    captions: list[str | None]


@runtime_checkable
class Condition(Protocol):
    """A denoiser's keyword arguments for a batch, and why a sample cannot have them."""

    def lacks(self, label: int | None, caption: str | None) -> str | None:
        """What a sample lacks to be trained on; None if it lacks nothing."""
        ...

    def __call__(self, batch: Batch) -> dict[str, Tensor]: ...


class Unconditional:
    """No condition."""

    def lacks(self, label: int | None, caption: str | None) -> str | None:
        return None

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        return {}


class ByClass:
    """The class index, 0 to classes - 1."""

    def __init__(self, classes: int) -> None:
        self._classes = classes

    def lacks(self, label: int | None, caption: str | None) -> str | None:
        known = label is not None and 0 <= label < self._classes
        return None if known else f"class label in 0 ... {self._classes - 1}"

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        return {"class_labels": torch.tensor(batch.labels, device=batch.inputs.device)}


class ByCaption:
    """The last hidden states of a frozen CLIP text encoder, the same as in an audit (Rombach et al. 2022)."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder

    def lacks(self, label: int | None, caption: str | None) -> str | None:
        return None if caption and caption.strip() else "caption"

    @torch.no_grad()
    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        return {"encoder_hidden_states": self._encoder(batch.captions).last_hidden_state}
