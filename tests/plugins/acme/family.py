"""A family of targets, by the class of its denoiser; its folder is `transformer/` or `unet/` of diffusers' layout."""

from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

from ldm_scale.targets.families import Family
from ldm_scale.targets.latent_diffusion import LatentDiffusion


class AcmeNet(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """One convolution. Every denoiser has these three options, or `block_out_channels` for the last."""

    @register_to_config
    def __init__(self, sample_size: int = 8, in_channels: int = 4, patch_size: int = 1) -> None:
        super().__init__()
        self.layer = nn.Conv2d(in_channels, in_channels, 3, padding=1)


class AcmeTarget(LatentDiffusion):
    def condition(self, captions: object, labels: object) -> None:
        return None

    def _denoise(self, z: Tensor, steps: Tensor, condition: object) -> Tensor:
        return self._denoiser.layer(z)


FAMILY = Family(AcmeNet, AcmeTarget)
