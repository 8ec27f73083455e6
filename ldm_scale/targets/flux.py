"""FLUX.1: a transformer with rectified flow on latents packed by 2 x 2, pooled CLIP and T5 embeddings."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from ldm_scale.targets.autoencoder import AnyAutoencoder
from ldm_scale.targets.base import Embeddings
from ldm_scale.targets.text import TextConditionalTarget

T5_TOKENS = 512  # as in diffusers' pipeline
PACK = 2
# The scale of no guidance, at which a guidance-distilled model is fine-tuned (diffusers' scripts).
GUIDANCE = 1.0


class FluxTarget(TextConditionalTarget):
    """v(x_sigma, sigma, c) (Black Forest Labs 2024, FLUX.1), converted to noise by its schedule."""

    def condition(self, captions: Sequence[str | None], labels: Sequence[int | None]) -> Embeddings:
        """T5's last hidden states and CLIP's pooled one; no caption is the empty prompt."""
        clip, t5 = self._texts
        return t5(captions, length=T5_TOKENS).last_hidden_state, clip(captions).pooler_output

    def _denoise(
        self, z: Float[Tensor, "n c h w"], steps: Num[Tensor, " n"], condition: Embeddings
    ) -> Float[Tensor, "n c h w"]:
        text, pooled = condition
        rows, columns = z.shape[2] // PACK, z.shape[3] // PACK
        places = torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns)).to(z)
        output = self._denoiser(
            nn.functional.pixel_unshuffle(z, PACK).flatten(2).transpose(1, 2),
            encoder_hidden_states=text,
            pooled_projections=pooled,
            timestep=steps / 1000,  # the transformer multiplies it by 1000
            img_ids=places,
            txt_ids=z.new_zeros(text.shape[1], 3),
            guidance=z.new_full((len(z),), GUIDANCE) if self._denoiser.config.guidance_embeds else None,
        ).sample
        return nn.functional.pixel_shuffle(output.transpose(1, 2).unflatten(2, (rows, columns)), PACK)

    def _own_side(self, autoencoder: AnyAutoencoder) -> int:
        """The autoencoder's: the transformer has none."""
        return int(autoencoder.config.sample_size) // self._autoencoder.factor

    def _grain(self) -> int:
        return PACK
