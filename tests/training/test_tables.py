"""Turns and tables: every sample once an epoch, the same from any place on; what a table gives, against the models."""

import errno
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm_scale.errors import RunError
from ldm_scale.targets.autoencoder import make_autoencoder
from ldm_scale.training.tables import Images, Latents, Turn, allot, collect, posteriors, turns
from tests.training.cases import CPU, batch, models

COUNT, EPOCHS = 40, 25


def taken(first: int = 0, seed: int = 0, name: str = "worker", flip: bool = True) -> list[Turn]:
    return [*islice(turns(COUNT, seed, name, first, flip), COUNT * EPOCHS - first)]


def test_every_sample_has_one_turn_an_epoch_in_an_order_of_its_own() -> None:
    found = [taken()[start : start + COUNT] for start in range(0, COUNT * EPOCHS, COUNT)]
    for epoch, some in enumerate(found):
        assert {turn.epoch for turn in some} == {epoch}
        assert sorted(turn.number for turn in some) == [*range(COUNT)]
    orders = {tuple(turn.number for turn in some) for some in found}
    assert len(orders) == EPOCHS


@pytest.mark.parametrize("first", [1, COUNT - 1, COUNT, COUNT + 1, 3 * COUNT + 17])
def test_turns_from_any_place_on_are_those_that_were_left(first: int) -> None:
    assert taken(first) == taken()[first:]


def test_other_seeds_and_names_have_other_turns() -> None:
    assert len({tuple(found) for found in (taken(), taken(seed=1), taken(name="other"))}) == 3
    assert taken() == taken()


def test_half_of_the_turns_are_mirrored_if_asked() -> None:
    mirrored = sum(turn.mirrored for turn in taken())
    # Binomial: six deviations.
    assert abs(mirrored - COUNT * EPOCHS / 2) < 3 * (COUNT * EPOCHS) ** 0.5
    assert not any(turn.mirrored for turn in taken(flip=False))
    # Each sample is now and then.
    assert len({turn.number for turn in taken() if turn.mirrored}) == COUNT


@pytest.mark.parametrize("memory", [0, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_table_on_disk_is_the_one_in_memory(memory: int, dtype: torch.dtype) -> None:
    rows = torch.randint(0, 255, (10, 3, 2, 2)).to(dtype)
    table = collect(rows.split(4), 10, memory)
    assert torch.equal(table, rows)
    assert torch.equal(table[torch.tensor([7, 0, 7])], rows[[7, 0, 7]])
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if "(deleted)" in line]
    assert any(line.startswith(f"{table.data_ptr():x}-") for line in mapped) == (memory == 0)


def test_a_table_for_which_there_is_no_room_is_an_error() -> None:
    with pytest.raises(RunError, match=r"has no room for 4,000,000,000,000,000 bytes: .*TMPDIR"):
        allot((10**15,), torch.float32, 0)


def test_room_that_others_take_meanwhile_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(RunError, match=r"cannot be written: .*TMPDIR"):
        allot((8,), torch.float32, 0)


def test_images_are_given_as_they_are_or_mirrored() -> None:
    pixels = torch.arange(2 * 3 * 2 * 2, dtype=torch.uint8).reshape(2, 3, 2, 2)
    given = Images(pixels)(torch.tensor([1, 0, 1]), torch.tensor([False, True, True]), CPU)
    expected = pixels.double() / 127.5 - 1
    torch.testing.assert_close(given.double(), torch.stack([expected[1], expected[0].flip(2), expected[1].flip(2)]))


def cached(sample: bool, flip: bool = True) -> tuple[Latents, Tensor]:
    """Latents of eight images, three at a time, and these images."""
    pixels = ((batch(8).inputs + 1) * 127.5).round().to(torch.uint8)
    found = posteriors(pixels.split(3), make_autoencoder(models().autoencoder), flip, sample, CPU)
    return Latents(collect(found, 8, 1 << 20)), pixels.float() / 127.5 - 1


@pytest.mark.parametrize("flip", [False, True])
def test_latents_are_the_encoders_means_of_the_image_as_it_is_used(flip: bool) -> None:
    latents, images = cached(sample=False, flip=flip)
    mirrored = torch.tensor([False, flip, False])
    given = latents(torch.tensor([7, 2, 0]), mirrored, CPU)
    used = torch.stack([images[7], images[2].flip(2) if flip else images[2], images[0]])
    with torch.no_grad():
        expected = models().autoencoder.eval().encode(used).latent_dist.mean * 0.7
    torch.testing.assert_close(given, expected)
    assert torch.equal(given, latents(torch.tensor([7, 2, 0]), mirrored, CPU))


def test_latents_are_other_samples_of_the_posterior_each_time() -> None:
    latents, images = cached(sample=True)
    numbers, mirrored = torch.tensor([5, 1]), torch.tensor([True, False])
    with torch.no_grad():
        posterior = models().autoencoder.eval().encode(torch.stack([images[5].flip(2), images[1]])).latent_dist
    for seed in range(2):
        torch.manual_seed(seed)
        given = latents(numbers, mirrored, CPU)
        torch.manual_seed(seed)
        drawn = posterior.mean + posterior.std * torch.randn(2, 4, 4, 4)
        torch.testing.assert_close(given, drawn * 0.7)
    assert not torch.equal(given, latents(numbers, mirrored, CPU))
