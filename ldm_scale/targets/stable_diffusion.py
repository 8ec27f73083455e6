"""Stable Diffusion 1.x and 2.x: a UNet2DConditionModel that attends to CLIP's text embeddings."""

from collections.abc import Sequence

from jaxtyping import Float, Num
from torch import Tensor

from ldm_scale.targets.text import TextConditionalTarget


class StableDiffusionTarget(TextConditionalTarget):
    """eps(z, t, c) with the text embeddings c of a caption (Rombach et al. 2022, section 3.3)."""

    def condition(
        self, captions: Sequence[str | None], labels: Sequence[int | None]
    ) -> Float[Tensor, "n tokens width"]:
        """CLIP's last hidden states of the captions; no caption is the empty prompt."""
        (clip,) = self._texts
        return clip(captions).last_hidden_state

    def _denoise(
        self, z: Float[Tensor, "n c h w"], steps: Num[Tensor, " n"], condition: Float[Tensor, "n tokens width"]
    ) -> Float[Tensor, "n c h w"]:
        return self._denoiser(z, steps, encoder_hidden_states=condition).sample
