"""Pixels on their way to a device. Only the CPU's way can be gone here."""

import numpy as np
import pytest
import torch

from ldm_scale.device.transfer import Transfer


def test_pixels_arrive_as_they_were_when_they_set_out() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4), np.uint8)
    kept = pixels.copy()
    arriving = Transfer(torch.device("cpu")).begin(pixels)
    pixels[:] = 0
    np.testing.assert_array_equal(arriving.wait().numpy(), kept)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_pixels_arrive_on_a_gpu_beside_what_computes_there() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 3, 256, 256), np.uint8)
    transfer = Transfer(torch.device("cuda"))
    arriving = [transfer.begin(pixels + np.uint8(n)) for n in range(4)]
    for n, batch in enumerate(arriving):
        np.testing.assert_array_equal(batch.wait().cpu().numpy(), pixels + np.uint8(n))
