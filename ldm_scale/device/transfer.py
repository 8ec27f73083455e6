"""Pixels on their way to a device while it computes something else. Torch only."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor


@dataclass(frozen=True)
class Arriving:
    """Pixels on a device, or on their way to it.

    Attributes:
        pixels: 0 to 255.
        copied: the event after which they are there, in the copying stream; None if they are there already.
    """

    pixels: UInt8[Tensor, "n 3 H W"]
    copied: torch.cuda.Event | None = None

    def wait(self) -> UInt8[Tensor, "n 3 H W"]:
        """The pixels, for work that is queued on the current stream from now on; the calling thread does not wait."""
        if self.copied is not None:
            stream = torch.cuda.current_stream(self.pixels.device)
            stream.wait_event(self.copied)
            # Their memory belongs to the copying stream, which must not take it back before this one is done with it.
            self.pixels.record_stream(stream)
        return self.pixels


class Transfer:
    """Copies pixels to a device: on cuda from pinned memory and in a stream of its own, beside what computes there."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def begin(self, pixels: UInt8[np.ndarray, "n 3 H W"]) -> Arriving:
        """Start a copy of pixels; the array may be changed as soon as this returns."""
        host = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=self._stream is not None)
        host.numpy()[...] = pixels
        if self._stream is None:
            return Arriving(host)
        with torch.cuda.stream(self._stream):
            there = host.to(self._device, non_blocking=True)
            return Arriving(there, self._stream.record_event())
