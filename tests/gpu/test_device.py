"""Draws and transfers of a device: the CPU's bits and bytes, whatever computes meanwhile."""

import numpy as np
import pytest
import torch

from ldm_scale.device.draws import keyed_normal, keyed_words
from ldm_scale.device.transfer import Arriving, Transfer
from tests.gpu.cases import CPU

IDS = [f"shard/{number}" for number in range(5)]


@pytest.mark.parametrize("shape", [(3,), (4, 64, 64), (2, 3, 65, 67)])
def test_draws_are_the_same_bits(device: torch.device, shape: tuple[int, ...]) -> None:
    """Of a whole batch there, and of each sample by itself on the CPU; odd sizes, and more than one piece of them."""
    count = int(np.prod(shape))
    normal, words = keyed_normal(7, IDS, "noise", shape, device), keyed_words(7, IDS, "mask", count, device)
    assert normal.device.type == words.device.type == device.type
    for number, name in enumerate(IDS):
        assert torch.equal(normal[number].cpu(), keyed_normal(7, [name], "noise", shape, CPU)[0])
        assert torch.equal(words[number].cpu(), keyed_words(7, [name], "mask", count, CPU)[0])


def work(device: torch.device) -> None:
    """Keep the stream that computes busy for a while: some tens of milliseconds on a GPU."""
    side = 8192 if device.type == "cuda" else 8
    matrix = torch.full((side, side), 1 / side, device=device)
    for _ in range(4):
        matrix = matrix @ matrix


def test_batches_arrive_whole_while_others_are_computed(device: torch.device) -> None:
    """Each copy sets out while the stream is busy, its array is overwritten at once, and its memory is used again.

    What is computed of each batch is read at the end alone, so that nothing waits in between.
    """
    rng, transfer = np.random.default_rng(0), Transfer(device)
    array = np.empty((8, 3, 128, 128), np.uint8)
    expected, found = [], []

    def begin() -> Arriving:
        array[...] = rng.integers(0, 256, array.shape, np.uint8)
        expected.append(array.copy())
        arriving = transfer.begin(array)
        array[...] = 0
        return arriving

    arriving = begin()
    for _ in range(12):
        work(device)
        following = begin()
        found.append(arriving.wait().bitwise_xor(1))
        arriving = following
    for pixels, sent in zip(found, expected[:-1], strict=True):
        np.testing.assert_array_equal(pixels.cpu().numpy(), sent ^ 1)


@pytest.mark.gpu
def test_a_copy_goes_on_beside_what_computes() -> None:
    """It has arrived before the work ends that the stream was given first; a copy in that stream would wait for it."""
    device = torch.device("cuda")
    transfer, pixels = Transfer(device), np.ones((32, 3, 256, 256), np.uint8)
    transfer.begin(pixels).wait()
    torch.cuda.synchronize()
    for _ in range(10):
        work(device)
    ended = torch.cuda.current_stream().record_event()
    arriving = transfer.begin(pixels)
    assert arriving.copied is not None
    arriving.copied.synchronize()
    assert not ended.query()
    torch.cuda.synchronize()
