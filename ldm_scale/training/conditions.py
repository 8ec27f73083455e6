"""What a denoiser is told of a training sample beside its noisy latent: nothing, its class, or its caption."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ldm_scale.targets.autoencoder import freeze


@dataclass(frozen=True)
class Batch:
    """Images in [-1, 1] with what the shards say of each: class index and caption, or None."""

    images: Float[Tensor, "n 3 H W"]
    labels: list[int | None]
    captions: list[str | None]


@runtime_checkable
class Condition(Protocol):
    """Keyword arguments of a denoiser for a batch, and which samples cannot have them."""

    def lacks(self, label: int | None, caption: str | None) -> str | None:
        """What a sample lacks to be trained on; None where it lacks nothing."""
        ...

    def __call__(self, batch: Batch) -> dict[str, Tensor]: ...


class Unconditional:
    """No condition."""

    def lacks(self, label: int | None, caption: str | None) -> str | None:
        return None

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        return {}


class ByClass:
    """The class index, of `classes` many."""

    def __init__(self, classes: int) -> None:
        self._classes = classes

    def lacks(self, label: int | None, caption: str | None) -> str | None:
        known = label is not None and 0 <= label < self._classes
        return None if known else f"class label in 0 ... {self._classes - 1}"

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        return {"class_labels": torch.tensor(batch.labels, device=batch.images.device)}


class ByCaption:
    """The last hidden states of a frozen CLIP text encoder, padded and cut to its length (Rombach et al. 2022)."""

    def __init__(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
        self._tokenizer = tokenizer
        self._text_encoder = freeze(text_encoder)

    def lacks(self, label: int | None, caption: str | None) -> str | None:
        return None if caption and caption.strip() else "caption"

    @torch.no_grad()
    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        tokens = self._tokenizer(
            batch.captions,
            padding="max_length",
            max_length=self._tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        states = self._text_encoder(tokens.input_ids.to(batch.images.device)).last_hidden_state
        return {"encoder_hidden_states": states}
