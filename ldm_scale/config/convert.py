"""The configuration of a conversion."""

from pydantic import Field

from ldm_scale.config.base import Config
from ldm_scale.config.values import Address


class ConvertConfig(Config):
    """Checkpoints of the paper's authors, as their scripts save them, and the target that they become."""

    unet: Address = Field(
        description="local file of the U-Net: ldm_vae/unet_last.pt, or ImageNet's unet_last.pt with its class tokens"
    )
    autoencoder: Address = Field(
        description="local file of the from-scratch autoencoder, vae/vae_last.pt; or a pretrained one: folder, s3:// "
        "or hub id (for ImageNet stabilityai/sd-vae-ft-mse)"
    )
    size: int = Field(
        gt=0, description="image side in pixels: 32 for CIFAR-10 and MNIST, 64 for CelebA, 256 for ImageNet"
    )
    out: Address = Field(description="new target folder, local or s3://")
