"""Text to embeddings: a tokenizer with its encoder, and what all text-conditional targets share."""

from collections.abc import Sequence
from typing import Any

from diffusers import ModelMixin, SchedulerMixin
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ldm_scale.errors import RunError, one_line
from ldm_scale.targets.autoencoder import AnyAutoencoder, freeze
from ldm_scale.targets.latent_diffusion import LatentDiffusion


class TextEncoder:
    """A tokenizer and the encoder of its tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
        self._tokenizer = tokenizer
        self.model = freeze(model)

    def tokens(self, captions: Sequence[str | None], length: int | None = None) -> Int[Tensor, "n tokens"]:
        """The numbers of each caption's tokens, padded or cut to a length, by default the tokenizer's own.

        Raises:
            RunError: The tokenizer broke down.
        """
        try:
            found = self._tokenizer(
                [caption or "" for caption in captions],
                padding="max_length",
                max_length=length or self._tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
        except BaseException as error:
            # A panic in Rust is no Exception: nobody would catch it.
            if type(error).__name__ != "PanicException":
                raise
            raise RunError(f"the target's tokenizer cannot read a caption: {one_line(error)}") from error
        return found.input_ids

    def __call__(self, captions: Sequence[str | None], length: int | None = None, hidden: bool = False) -> Any:
        """The encoder's output.

        Args:
            captions: None is the empty prompt.
            length: tokens that each caption is padded or cut to; the tokenizer's own by default.
            hidden: whether all hidden states are returned as well.
        """
        return self.model(self.tokens(captions, length).to(self.model.device), output_hidden_states=hidden)


class TextConditionalTarget(LatentDiffusion):
    """A target with text encoders, in the order of diffusers' pipeline; None for an optional one that is missing.

    Its options are those of LatentDiffusion.
    """

    def __init__(
        self,
        autoencoder: AnyAutoencoder,
        denoiser: ModelMixin,
        schedule: SchedulerMixin,
        *texts: TextEncoder | None,
        **options: Any,
    ) -> None:
        super().__init__(autoencoder, denoiser, schedule, **options)
        # Any: a family knows which of them may be None.
        self._texts: tuple[Any, ...] = texts
        self._models += [text.model for text in texts if text is not None]

    def refusal(self, caption: str | None, label: int | None) -> str | None:
        return "no caption" if caption is None else None
