"""One optimiser step at a time, in mixed precision, with a moving average of the weights; resumable."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from jaxtyping import Float
from torch import Tensor, nn

from ldm_scale.config.train import Precision, StageConfig
from ldm_scale.training.conditions import Batch


class Optimiser:
    """AdamW on batches that are computed in equal parts.

    The rate rises from 0 over the warm-up, then stays, or falls to 0 by a cosine.

    Args:
        network: its parameters that require a gradient are trained.
        loss: of a part of a batch; that of the batch is their mean.
        steps: of the whole training.
        config: rate, weight decay and clipping.
        precision: below float32 the loss runs under torch.autocast; in float16 its gradients are scaled, too.
        ema: if given, an average of the weights is kept; its decay at step n > 1 is min(ema, n / (9 + n)), and 0 at
            step 1, so it forgets the untrained weights.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        steps: int,
        config: StageConfig,
        precision: Precision = "float32",
        ema: float | None = None,
    ) -> None:
        self._loss = loss.train()
        self._weights = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self._device = next(iter(self._weights.values())).device.type
        self._dtype = getattr(torch, precision)
        self._clip = config.clip
        self._adam = torch.optim.AdamW(self._weights.values(), lr=config.rate, weight_decay=config.weight_decay)
        kind = "cosine" if config.decay == "cosine" else "constant_with_warmup"
        self._decay = get_scheduler(kind, self._adam, num_warmup_steps=config.warmup, num_training_steps=steps)
        self._scaler = torch.amp.GradScaler(self._device, enabled=precision == "float16")
        self._average = EMAModel(self._weights.values(), decay=ema) if ema is not None else None

    def step(self, parts: Sequence[Batch]) -> Float[Tensor, ""]:
        """Train on one batch, given in parts of one size; its loss."""
        self._adam.zero_grad()
        losses = [self._gradients(part, 1 / len(parts)) for part in parts]
        if self._clip:
            self._scaler.unscale_(self._adam)
            nn.utils.clip_grad_norm_(self._weights.values(), self._clip)
        self._scaler.step(self._adam)
        self._scaler.update()
        self._decay.step()
        if self._average is not None:
            self._average.step(self._weights.values())
        return torch.stack(losses).sum()

    def _gradients(self, part: Batch, weight: float) -> Float[Tensor, ""]:
        """Add those of a part's loss, times its weight, to the gradients."""
        with torch.autocast(self._device, self._dtype, enabled=self._dtype != torch.float32):
            value = weight * self._loss(part)
        self._scaler.scale(value).backward()
        return value.detach()

    def average_into(self, network: nn.Module) -> None:
        """Give the network, or a copy of it, the averaged weights, if there are any."""
        if self._average is not None:
            self._average.copy_to([weight for weight in network.parameters() if weight.requires_grad])

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, the trained weights included."""
        return {
            "weights": {name: weight.detach() for name, weight in self._weights.items()},
            "adam": self._adam.state_dict(),
            "decay": self._decay.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": self._average.state_dict() if self._average is not None else None,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of another optimiser of the same network."""
        for name, weight in self._weights.items():
            weight.copy_(state["weights"][name])
        self._adam.load_state_dict(state["adam"])
        # The states of older trainings lack the functions, which are not stored.
        self._decay.load_state_dict({"lr_lambdas": [None], **state["decay"]})
        self._scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
            self._average.to(self._device)
