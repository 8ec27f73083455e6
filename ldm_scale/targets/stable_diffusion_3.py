"""Stable Diffusion 3.x: a transformer with rectified flow, two CLIP text encoders and, optionally, T5."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Num
from torch import Tensor

from ldm_scale.targets.base import Embeddings
from ldm_scale.targets.text import TextConditionalTarget

T5_TOKENS = 256  # as in diffusers' pipeline


class StableDiffusion3Target(TextConditionalTarget):
    """v(x_sigma, sigma, c) (Esser et al. 2024, arXiv 2403.03206), converted to noise by its schedule."""

    def condition(self, captions: Sequence[str | None], labels: Sequence[int | None]) -> Embeddings:
        """CLIP's penultimate states, padded with zeros to T5's width, then T5's; no caption is the empty prompt.

        Without T5 there are zeros in place of its states, as in diffusers' pipeline.
        """
        *clips, t5 = self._texts
        outputs = [clip(captions, hidden=True) for clip in clips]
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        pooled = torch.cat([output.text_embeds for output in outputs], dim=-1)
        width = self._denoiser.config.joint_attention_dim
        if t5 is None:
            long = states.new_zeros(len(captions), T5_TOKENS, width)
        else:
            long = t5(captions, length=T5_TOKENS).last_hidden_state
        padded = torch.nn.functional.pad(states, (0, width - states.shape[-1]))
        return torch.cat([padded, long], dim=1), pooled

    def _denoise(
        self, z: Float[Tensor, "n c h w"], steps: Num[Tensor, " n"], condition: Embeddings
    ) -> Float[Tensor, "n c h w"]:
        text, pooled = condition
        return self._denoiser(z, encoder_hidden_states=text, pooled_projections=pooled, timestep=steps).sample
