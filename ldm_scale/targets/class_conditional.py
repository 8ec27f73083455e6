"""Class-conditional latent diffusion: a UNet2DModel with class embeddings, or a DiT."""

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, ModelMixin, SchedulerMixin, VQModel
from jaxtyping import Float, Int
from torch import Tensor

from ldm_scale.errors import RunError
from ldm_scale.targets.latent_diffusion import LatentDiffusion


class ClassConditionalTarget(LatentDiffusion):
    """eps(z, t, y) with a class y. A learned sigma is left out.

    A network with a learned sigma has 2 C output channels: the prediction, then the variance's interpolation
    (Nichol & Dhariwal 2021, eq. 15; DiT, Peebles & Xie 2023, section 3.1).
    """

    def __init__(self, autoencoder: AutoencoderKL | VQModel, denoiser: ModelMixin, schedule: SchedulerMixin) -> None:
        super().__init__(autoencoder, denoiser, schedule)
        self._classes = int(denoiser.config.get("num_class_embeds") or denoiser.config.num_embeds_ada_norm)

    def condition(self, captions: Sequence[str | None], labels: Sequence[int | None]) -> Int[Tensor, " n"]:
        """The classes.

        Raises RunError where a sample has none, or one that the model does not know.
        """
        known = [label for label in labels if label is not None and 0 <= label < self._classes]
        if unknown := len(labels) - len(known):
            raise RunError(
                f"{unknown} of {len(labels)} samples have no class label in 0 ... {self._classes - 1}; "
                "a class-conditional target needs one of each (a cls member in its shard)"
            )
        return torch.tensor(known, device=self._device)

    def _denoise(
        self, z: Float[Tensor, "n c h w"], steps: Int[Tensor, " n"], condition: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        return self._denoiser(z, steps, class_labels=condition).sample[:, : z.shape[1]]
