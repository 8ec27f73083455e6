"""Stable Diffusion XL: two CLIP text encoders, and the image's size as a condition."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Num
from torch import Tensor

from ldm_scale.targets.base import Embeddings
from ldm_scale.targets.text import TextConditionalTarget


class StableDiffusionXLTarget(TextConditionalTarget):
    """eps(z, t, c) of SDXL's base model (Podell et al. 2023, sections 2.1 and 2.2).

    Its condition on sizes is (H, W, 0, 0, H, W): an image of the target's own size that was not cropped.
    """

    def condition(self, captions: Sequence[str | None], labels: Sequence[int | None]) -> Embeddings:
        """Both encoders' penultimate hidden states, side by side; no caption is the empty prompt."""
        outputs = [clip(captions, hidden=True) for clip in self._texts]
        return torch.cat([output.hidden_states[-2] for output in outputs], dim=-1), outputs[-1].text_embeds

    def _denoise(
        self, z: Float[Tensor, "n c h w"], steps: Num[Tensor, " n"], condition: Embeddings
    ) -> Float[Tensor, "n c h w"]:
        text, pooled = condition
        side = self.image_size
        # In single precision whatever the network's: it embeds them as it does timesteps.
        sizes = torch.tensor([side, side, 0, 0, side, side], dtype=torch.float32, device=z.device).expand(len(z), -1)
        added = {"text_embeds": pooled, "time_ids": sizes}
        return self._denoiser(z, steps, encoder_hidden_states=text, added_cond_kwargs=added).sample
