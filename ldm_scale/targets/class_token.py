"""The denoiser of the paper's ImageNet target: a U-Net that attends to one learned token, that of the class."""

from collections.abc import Sequence

from diffusers import ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from jaxtyping import Float, Int, Num
from torch import Tensor, nn


class ClassTokenUNet(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A UNet2DConditionModel and the embedding of its classes, which is the text that it attends to.

    There is no null class. The paper's has the widths 192, 384, 576 and 960: 400.9M weights without the embedding.

    Args:
        sample_size: side of the latents that it was trained on.
        block_out_channels: widths, one a resolution.
        layers_per_block: residual blocks a resolution.
        attending: how many of the lowest resolutions attend to the token; what lies below them does, too.
        heads: of each attention.
        token_width: numbers of a token.
        num_class_embeds: classes.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | None = None,
        in_channels: int = 4,
        out_channels: int = 4,
        block_out_channels: Sequence[int] = (192, 384, 576, 960),
        layers_per_block: int = 2,
        attending: int = 3,
        heads: int = 8,
        norm_num_groups: int = 32,
        token_width: int = 512,
        num_class_embeds: int = 1000,
    ) -> None:
        super().__init__()
        plain = len(block_out_channels) - attending
        self.unet = UNet2DConditionModel(
            sample_size=sample_size,
            in_channels=in_channels,
            out_channels=out_channels,
            down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",) * attending,
            up_block_types=("CrossAttnUpBlock2D",) * attending + ("UpBlock2D",) * plain,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            cross_attention_dim=token_width,
            # diffusers' name for the number of heads.
            attention_head_dim=heads,
        )
        self.tokens = nn.Embedding(num_class_embeds, token_width)

    def forward(
        self, sample: Float[Tensor, "n c h w"], timestep: Num[Tensor, " n"], class_labels: Int[Tensor, " n"]
    ) -> UNet2DConditionOutput:
        """The network's output, at each row's timestep and class."""
        return self.unet(sample, timestep, encoder_hidden_states=self.tokens(class_labels)[:, None])
