"""Pixels on their way to a device. The way to a GPU is in tests/gpu."""

import numpy as np
import torch

from ldm_scale.device.transfer import Transfer


def test_pixels_arrive_as_they_were_when_they_set_out() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4), np.uint8)
    kept = pixels.copy()
    arriving = Transfer(torch.device("cpu")).begin(pixels)
    pixels[:] = 0
    np.testing.assert_array_equal(arriving.wait().numpy(), kept)
