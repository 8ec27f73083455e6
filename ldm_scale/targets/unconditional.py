"""Unconditional latent diffusion: a UNet2DModel in diffusers' layout."""

from collections.abc import Sequence

from jaxtyping import Float, Num
from torch import Tensor

from ldm_scale.targets.latent_diffusion import LatentDiffusion


class UnconditionalTarget(LatentDiffusion):
    """The paper's from-scratch model, and diffusers' LDMPipeline (Rombach et al. 2022)."""

    def condition(self, captions: Sequence[str | None], labels: Sequence[int | None]) -> None:
        return None

    def _denoise(
        self, z: Float[Tensor, "n c h w"], steps: Num[Tensor, " n"], condition: None
    ) -> Float[Tensor, "n c h w"]:
        return self._denoiser(z, steps).sample
