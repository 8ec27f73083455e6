"""Pixels on their way to a device while it computes something else. Torch only."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor


@dataclass(frozen=True)
class Arriving:
    """Pixels that are there, or will be once an event of another stream has come."""

    pixels: UInt8[Tensor, "n 3 H W"]
    copied: torch.cuda.Event | None = None

    def wait(self) -> UInt8[Tensor, "n 3 H W"]:
        """The pixels, for work that the current stream does from now on; no thread waits on cuda."""
        if self.copied is not None:
            stream = torch.cuda.current_stream(self.pixels.device)
            stream.wait_event(self.copied)
            # Their memory is of the copying stream, which must not take it back before this one is done with it.
            self.pixels.record_stream(stream)
        return self.pixels


class Transfer:
    """Brings pixels to a device: on cuda from pinned memory and by a stream of its own, beside what computes there."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def begin(self, pixels: UInt8[np.ndarray, "n 3 H W"]) -> Arriving:
        """A copy of pixels that sets out now; the array is free when this returns."""
        host = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=self._stream is not None)
        host.numpy()[...] = pixels
        if self._stream is None:
            return Arriving(host)
        with torch.cuda.stream(self._stream):
            there = host.to(self._device, non_blocking=True)
            return Arriving(there, self._stream.record_event())
