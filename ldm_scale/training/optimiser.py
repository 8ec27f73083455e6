"""One optimiser step at a time, in mixed precision, with a moving average of the weights; resumable."""

from typing import Any

import torch
from diffusers.training_utils import EMAModel
from jaxtyping import Float
from torch import Tensor, nn

from ldm_scale.config.train import Precision
from ldm_scale.training.conditions import Batch


class Optimiser:
    """AdamW with a cosine decay to zero and gradients clipped to norm 1.

    Args:
        network: its parameters that require a gradient are trained.
        loss: of a batch.
        steps: of the whole training; the learning rate is 0 after the last.
        rate: the first learning rate.
        precision: below float32 the loss runs under torch.autocast; in float16 its gradients are scaled, too.
        ema: if given, an average of the weights is kept; its decay at step n > 1 is min(ema, n / (9 + n)), and 0 at
            step 1, so it forgets the untrained weights.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        steps: int,
        rate: float,
        precision: Precision = "float32",
        ema: float | None = None,
    ) -> None:
        self._loss = loss.train()
        self._weights = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self._device = next(iter(self._weights.values())).device.type
        self._dtype = getattr(torch, precision)
        self._adam = torch.optim.AdamW(self._weights.values(), lr=rate, weight_decay=0)
        self._decay = torch.optim.lr_scheduler.CosineAnnealingLR(self._adam, steps)
        self._scaler = torch.amp.GradScaler(self._device, enabled=precision == "float16")
        self._average = EMAModel(self._weights.values(), decay=ema) if ema is not None else None

    def step(self, batch: Batch) -> Float[Tensor, ""]:
        """Train on one batch; its loss."""
        with torch.autocast(self._device, self._dtype, enabled=self._dtype != torch.float32):
            value = self._loss(batch)
        self._adam.zero_grad()
        self._scaler.scale(value).backward()
        self._scaler.unscale_(self._adam)
        nn.utils.clip_grad_norm_(self._weights.values(), 1.0)
        self._scaler.step(self._adam)
        self._scaler.update()
        self._decay.step()
        if self._average is not None:
            self._average.step(self._weights.values())
        return value.detach()

    def finish(self) -> None:
        """Give the network the averaged weights, if there are any."""
        if self._average is not None:
            self._average.copy_to(self._weights.values())

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
        self._decay.load_state_dict(state["decay"])
        self._scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
            self._average.to(self._device)
