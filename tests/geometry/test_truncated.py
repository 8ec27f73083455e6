"""Truncated distortion against the largest singular values of a full Jacobian."""

import pytest
import torch
from torch import nn

from ldm_scale.geometry.pullback import TracedDecoder, product_bytes
from ldm_scale.geometry.truncated import truncated_distortion
from tests.geometry.decoders import (
    DECODERS,
    SHAPE,
    SIMPLE,
    WIDE,
    WIDE_DECODERS,
    WIDE_SIMPLE,
    LinearDecoder,
    jacobians,
    latents,
    linear_decoder,
    normal,
    spectral_decoder,
)


def log_singular_values(decoder: nn.Module | TracedDecoder, z: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(jacobians(decoder, z)).log()


@pytest.mark.parametrize("name", WIDE_SIMPLE)
def test_the_twenty_largest_of_64(name: str) -> None:
    """Measured: off by 1.4e-4 nats on the harmonic spectrum, by less than 3e-6 on the others, the flat one included."""
    decoder, z = WIDE_DECODERS[name], latents(3, WIDE)
    expected = log_singular_values(decoder, z)[:, :20].sum(1)
    found = truncated_distortion(decoder, z, normal(3, *WIDE), 2**30)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("power", "nats"), [(0.0, 1e-4), (0.5, 0.05), (1.0, 1e-3)])
def test_the_twenty_largest_of_256(power: float, nats: float) -> None:
    """Singular values i^-power. A slow fall is the hard case: 50 starts catch the 20 largest only in part.

    Measured: off by 3e-6, 0.02 of 21 (0.1 percent) and 2e-4 nats.
    """
    values = torch.arange(1, 257, dtype=torch.float64) ** -power
    decoder, shape = spectral_decoder(values), (4, 8, 8)
    found = truncated_distortion(decoder, latents(3, shape), normal(3, *shape), 2**30)
    expected = values[:20].log().sum()
    torch.testing.assert_close(found.double(), expected.expand(3), rtol=0, atol=nats)
    # The range of J found is a part of the whole: singular values are never overestimated beyond rounding.
    assert (found.double() < expected + 1e-4).all()


@pytest.mark.parametrize("name", SIMPLE)
def test_with_fewer_dimensions_than_the_rank_it_is_the_distortion(name: str) -> None:
    """Measured: off by less than 2e-6 nats."""
    decoder, z = DECODERS[name], latents()
    expected = log_singular_values(decoder, z).sum(1)
    found = truncated_distortion(decoder, z, normal(3, *SHAPE), 2**30)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)


def test_rank_is_how_many_count() -> None:
    decoder, z = DECODERS["attention"], latents()
    expected = log_singular_values(decoder, z)[:, :3].sum(1)
    found = truncated_distortion(decoder, z, normal(3, *SHAPE), 2**30, rank=3)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-3)


def test_a_smaller_tolerance_sharpens_it() -> None:
    """On the slow fall. Measured: off by 0.01 nats after 40 steps, by 1e-5 after 50."""
    values = torch.arange(1, 257, dtype=torch.float64) ** -0.5
    shape = (4, 8, 8)
    errors, products = [], []
    for tolerance in (1.0, 1e-4):
        decoder = TracedDecoder(spectral_decoder(values))
        found = truncated_distortion(decoder, latents(3, shape), normal(3, *shape), 2**30, tolerance=tolerance)
        errors.append((found - values[:20].log().sum()).abs().max())
        products.append(decoder.products)
    assert errors[0] > 10 * errors[1]
    assert products[0] == 3 * 2 * 40 < products[1]


def test_each_sample_takes_the_products_that_it_needs() -> None:
    """Of x = z^2 / 2, whose J is diag z: a fast fall beside a slow one, together as alone, in numbers and products."""
    falls = torch.stack([0.5 ** torch.arange(192.0).clamp(max=60), torch.arange(1, 193.0) ** -0.2])
    z, starts = falls.reshape(2, 3, 8, 8), normal(2, 3, 8, 8)
    decoder = TracedDecoder(lambda z: z * z / 2)

    def measured(samples: list[int]) -> tuple[torch.Tensor, int]:
        before = decoder.products
        return truncated_distortion(decoder, z[samples], starts[samples], 2**30), decoder.products - before

    (fast, few), (slow, many), (both, all_of_them) = measured([0]), measured([1]), measured([0, 1])
    assert few < many
    assert few + many == all_of_them
    torch.testing.assert_close(both, torch.cat([fast, slow]), rtol=0, atol=1e-4)
    torch.testing.assert_close(both, falls[:, :20].log().sum(1), rtol=0, atol=0.02)


def test_it_takes_no_more_products_than_the_paper() -> None:
    """A spectrum that hardly falls, of many dimensions, and no tolerance: 6 (R + 30), and still never too much."""
    values = torch.linspace(1, 0.9, 512, dtype=torch.float64)
    decoder, shape = TracedDecoder(spectral_decoder(values)), (8, 8, 8)
    found = truncated_distortion(decoder, latents(1, shape), normal(1, *shape), 2**30, rank=7, tolerance=0.0)
    assert decoder.products == 6 * 37
    assert -0.05 < found.item() - values[:7].log().sum() < 1e-4


def test_a_rank_below_the_truncation_counts_rounding_errors() -> None:
    """Three of eight dimensions are ignored: far below the other five's sum, perhaps -inf, and never nan."""
    matrix = linear_decoder().matrix.clone()
    matrix[:, 5:] = 0
    found = truncated_distortion(LinearDecoder(matrix), latents(), normal(3, *SHAPE), 2**30)
    five = torch.linalg.svdvals(matrix[:, :5]).log().sum()
    assert (found < five - 20).all()
    sound = truncated_distortion(LinearDecoder(matrix), latents(), normal(3, *SHAPE), 2**30, rank=5)
    torch.testing.assert_close(sound, five.expand(3), rtol=0, atol=1e-4)


def test_the_memory_budget_and_the_batch_change_nothing() -> None:
    decoder, z, starts = WIDE_DECODERS["attention"], latents(3, WIDE), normal(3, *WIDE)
    alone = torch.cat([truncated_distortion(decoder, z[n : n + 1], starts[n : n + 1], 2**30, rank=5) for n in range(3)])
    for memory in (1, 25 * product_bytes(decoder, z[:1]), 2**30):
        found = truncated_distortion(decoder, z, starts, memory, rank=5)
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-4)


def test_a_sample_that_is_not_finite_fails_no_other() -> None:
    decoder, z, starts = WIDE_DECODERS["attention"], latents(3, WIDE), normal(3, *WIDE)
    z[1, 0, 0, 0] = torch.nan
    found = truncated_distortion(decoder, z, starts, 2**30, rank=5)
    assert found.isfinite().tolist() == [True, False, True]
    alone = truncated_distortion(decoder, z[2:], starts[2:], 2**30, rank=5)
    torch.testing.assert_close(found[2:], alone, rtol=0, atol=1e-4)
