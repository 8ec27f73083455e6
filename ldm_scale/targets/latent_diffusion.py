"""What all latent diffusion models have in common; a family adds its condition."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from diffusers import ModelMixin, SchedulerMixin
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from ldm_scale.errors import UsageError
from ldm_scale.targets.autoencoder import AnyAutoencoder, freeze, make_autoencoder
from ldm_scale.targets.base import ConditionTensors, each_part
from ldm_scale.targets.execution import PLAIN, Execution
from ldm_scale.targets.schedules import make_schedule


class LatentDiffusion(ABC):
    """An autoencoder, a denoiser of its scaled latents, and a schedule; `base.Target` says what its methods do.

    Args:
        autoencoder: frozen here.
        denoiser: frozen here; its device is the target's.
        schedule: diffusers' sampler; of it only the noise at each training timestep is used.
        size: height and width of its images, in pixels; the model's own by default.
        execution: how the denoiser is run.

    Raises:
        UsageError: The model cannot take images of this size.
    """

    def __init__(
        self,
        autoencoder: AnyAutoencoder,
        denoiser: ModelMixin,
        schedule: SchedulerMixin,
        *,
        size: int | None = None,
        execution: Execution = PLAIN,
    ) -> None:
        self._autoencoder = make_autoencoder(autoencoder)
        self._execution = execution
        self._models: list[nn.Module] = [autoencoder, denoiser]
        self._denoiser = execution.prepare(freeze(denoiser))
        self._device = next(denoiser.parameters()).device
        side = self._find_side(self._own_side(autoencoder), size)
        tokens = (side // self._grain()) ** 2
        self._schedule = make_schedule(schedule, tokens, self._device)
        self.alphas_cumprod = self._schedule.alphas_cumprod
        if self.alphas_cumprod.is_meta:
            # A model of shapes alone keeps its schedule's numbers.
            self.alphas_cumprod = make_schedule(schedule, tokens, torch.device("cpu")).alphas_cumprod
        self.latent_shape = (int(autoencoder.config.latent_channels), side, side)
        self.image_size = side * self._autoencoder.factor

    def weights(self) -> Iterator[Tensor]:
        return (parameter for model in self._models for parameter in model.parameters())

    def encode(
        self, images: Float[Tensor, "n 3 H W"], noise: Float[Tensor, "n c h w"] | None
    ) -> Float[Tensor, "n c h w"]:
        return self._autoencoder.encode(images, noise)

    def decode(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        return self._autoencoder.decode(z)

    def refusal(self, caption: str | None, label: int | None) -> str | None:
        return None

    @abstractmethod
    def condition(self, captions: Sequence[str | None], labels: Sequence[int | None]) -> ConditionTensors:
        """What _denoise takes for these samples."""

    def predict_noise(
        self, z: Float[Tensor, "n c h w"], t: Int[Tensor, " n"], condition: ConditionTensors
    ) -> Float[Tensor, "n c h w"]:
        taken = each_part(self._execution.take, condition)

        def network(x: Tensor, steps: Tensor) -> Tensor:
            with self._execution.arithmetic():
                return self._execution.give(self._denoise(self._execution.take(x), steps, taken))

        return self._schedule.predict_noise(network, z, t)

    @abstractmethod
    def _denoise(
        self, z: Float[Tensor, "n c h w"], steps: Num[Tensor, " n"], condition: ConditionTensors
    ) -> Float[Tensor, "n c h w"]:
        """The network's output as it is; z, output and a condition of floats are in the network's precision."""

    def _own_side(self, autoencoder: AnyAutoencoder) -> int | None:
        """The side of the latents that the model was made for, if its configuration says."""
        return self._denoiser.config.sample_size

    def _grain(self) -> int:
        """What the side of a latent must be a multiple of: a transformer's patch, or how much a U-Net reduces it."""
        config = self._denoiser.config
        return int(config.get("patch_size") or 2 ** (len(config.block_out_channels) - 1))

    def _find_side(self, own: int | None, size: int | None) -> int:
        if own is not None and size in (None, own * self._autoencoder.factor):
            return int(own)
        side, rest = divmod(size or 0, self._autoencoder.factor)
        grain, most = self._grain(), self._denoiser.config.get("pos_embed_max_size")
        if rest or side % grain or side == 0 or (most and side > most * grain):
            takes = [] if own is None else [f"{own * self._autoencoder.factor} px"]
            limit = f" up to {most * grain * self._autoencoder.factor} px" if most else ""
            takes.append(f"multiples of {grain * self._autoencoder.factor} px{limit}")
            raise UsageError(f"images.size = {size}: the target takes {' and '.join(takes)}")
        return side
