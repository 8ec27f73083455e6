"""Class-conditional latent diffusion: a U-Net with class embeddings or tokens, or a DiT."""

from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int, Num
from torch import Tensor

from ldm_scale.errors import UsageError
from ldm_scale.targets.latent_diffusion import LatentDiffusion


class ClassConditionalTarget(LatentDiffusion):
    """eps(z, t, y) with a class y.

    A network with a learned sigma has 2 C output channels: the prediction, then the variance's interpolation
    (Nichol & Dhariwal 2021, eq. 15; DiT, Peebles & Xie 2023, section 3.1), which is left out. A DiT's null class is the
    embedding after the last class, of labels dropped in training; U-Nets have no such convention.
    """

    @property
    def _null(self) -> int | None:
        return self._denoiser.config.get("num_embeds_ada_norm")

    @property
    def _classes(self) -> int:
        return int(self._null or self._denoiser.config.num_class_embeds)

    def refusal(self, caption: str | None, label: int | None) -> str | None:
        if label is None:
            return "no class label"
        if not 0 <= label < self._classes:
            return f"a class label {label}, which is not in 0 ... {self._classes - 1}"
        return None

    def condition(self, captions: Sequence[str | None], labels: Sequence[int | None]) -> Int[Tensor, " n"]:
        """The classes; no label is the null class.

        Raises:
            UsageError: There is no label and the model has no null class.
        """
        if self._null is None and None in labels:
            raise UsageError("conditioning = none: a U-Net does not say which class is its null class; give its number")
        return torch.tensor([self._null if label is None else label for label in labels], device=self._device)

    def _denoise(
        self, z: Float[Tensor, "n c h w"], steps: Num[Tensor, " n"], condition: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        # A UNet2DConditionModel must be given a text, which one without cross-attention ignores.
        text = {"encoder_hidden_states": None} if isinstance(self._denoiser, UNet2DConditionModel) else {}
        return self._denoiser(z, steps, class_labels=condition, **text).sample[:, : z.shape[1]]
