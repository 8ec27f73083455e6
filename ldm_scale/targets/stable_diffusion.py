"""Stable Diffusion 1.x and 2.x: a UNet2DConditionModel that attends to CLIP's text embeddings."""

from collections.abc import Sequence

from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel, VQModel
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ldm_scale.targets.autoencoder import freeze
from ldm_scale.targets.latent_diffusion import LatentDiffusion


class StableDiffusionTarget(LatentDiffusion):
    """eps(z, t, c) with the text embeddings c of a caption (Rombach et al. 2022, section 3.3)."""

    def __init__(
        self,
        autoencoder: AutoencoderKL | VQModel,
        denoiser: UNet2DConditionModel,
        schedule: SchedulerMixin,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
    ) -> None:
        super().__init__(autoencoder, denoiser, schedule)
        self._tokenizer = tokenizer
        self._text_encoder = freeze(text_encoder)

    def condition(
        self, captions: Sequence[str | None], labels: Sequence[int | None]
    ) -> Float[Tensor, "n tokens width"]:
        """CLIP's last hidden states of the captions, padded and cut to its length; no caption is the empty prompt."""
        tokens = self._tokenizer(
            [caption or "" for caption in captions],
            padding="max_length",
            max_length=self._tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return self._text_encoder(tokens.input_ids.to(self._device)).last_hidden_state

    def _denoise(
        self, z: Float[Tensor, "n c h w"], steps: Int[Tensor, " n"], condition: Float[Tensor, "n tokens width"]
    ) -> Float[Tensor, "n c h w"]:
        return self._denoiser(z, steps, encoder_hidden_states=condition).sample
