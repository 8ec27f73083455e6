"""Truncated distortion against the largest singular values of a full Jacobian."""

import pytest
import torch
from torch import nn

from ldm_scale.geometry.pullback import TracedDecoder, product_bytes
from ldm_scale.geometry.truncated import orthonormal, truncated_distortion
from tests.geometry.decoders import (
    DECODERS,
    IMAGE,
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
    found = truncated_distortion(decoder, z, normal(50, 3, *WIDE), 2**30)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("power", "nats"), [(0.0, 1e-4), (0.5, 0.05), (1.0, 1e-3)])
def test_the_twenty_largest_of_256(power: float, nats: float) -> None:
    """Singular values i^-power. A slow fall is the hard case: 50 tangents catch the 20 largest only in part.

    Measured: off by 3e-6, 0.02 of 21 (0.1 percent) and 2e-4 nats.
    """
    values = torch.arange(1, 257, dtype=torch.float64) ** -power
    decoder, shape = spectral_decoder(values), (4, 8, 8)
    found = truncated_distortion(decoder, latents(3, shape), normal(50, 3, *shape), 2**30)
    expected = values[:20].log().sum()
    torch.testing.assert_close(found.double(), expected.expand(3), rtol=0, atol=nats)
    # The range of J found is a part of the whole: singular values are never overestimated beyond rounding.
    assert (found.double() < expected + 1e-4).all()


@pytest.mark.parametrize("name", SIMPLE)
def test_with_fewer_dimensions_than_the_rank_it_is_the_distortion(name: str) -> None:
    """Measured: off by less than 2e-6 nats."""
    decoder, z = DECODERS[name], latents()
    expected = log_singular_values(decoder, z).sum(1)
    found = truncated_distortion(decoder, z, normal(50, 3, *SHAPE), 2**30)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)


def test_rank_is_how_many_count() -> None:
    decoder, z = DECODERS["attention"], latents()
    expected = log_singular_values(decoder, z)[:, :3].sum(1)
    found = truncated_distortion(decoder, z, normal(6, 3, *SHAPE), 2**30, rank=3)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-3)


def test_power_iterations_sharpen_it() -> None:
    decoder, z = WIDE_DECODERS["harmonic"], latents(3, WIDE)
    expected = log_singular_values(decoder, z)[:, :20].sum(1)
    errors = [
        (truncated_distortion(decoder, z, normal(30, 3, *WIDE), 2**30, iterations=q) - expected).abs().max().item()
        for q in (0, 1, 2)
    ]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_a_rank_below_the_truncation_counts_rounding_errors() -> None:
    """Three of eight dimensions are ignored: far below the other five's sum, perhaps -inf, and never nan."""
    matrix = linear_decoder().matrix.clone()
    matrix[:, 5:] = 0
    found = truncated_distortion(LinearDecoder(matrix), latents(), normal(50, 3, *SHAPE), 2**30)
    five = torch.linalg.svdvals(matrix[:, :5]).log().sum()
    assert (found < five - 20).all()
    sound = truncated_distortion(LinearDecoder(matrix), latents(), normal(50, 3, *SHAPE), 2**30, rank=5)
    torch.testing.assert_close(sound, five.expand(3), rtol=0, atol=1e-4)


def test_the_memory_budget_and_the_batch_change_nothing() -> None:
    decoder, z, tangents = WIDE_DECODERS["attention"], latents(3, WIDE), normal(10, 3, *WIDE)
    alone = torch.cat(
        [truncated_distortion(decoder, z[n : n + 1], tangents[:, n : n + 1], 2**30, rank=5) for n in range(3)]
    )
    for memory in (1, 25 * product_bytes(decoder, z[:1]), 2**30):
        found = truncated_distortion(decoder, z, tangents, memory, rank=5)
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-4)


def test_orthonormal_spans_what_it_was_given() -> None:
    products = normal(4, 3, *IMAGE)
    basis = orthonormal(products).flatten(2).transpose(0, 1).double()
    torch.testing.assert_close(basis @ basis.mT, torch.eye(4).double().expand(3, 4, 4), rtol=0, atol=1e-6)
    columns = products.flatten(2).transpose(0, 1).double()
    torch.testing.assert_close(columns @ basis.mT @ basis, columns, rtol=0, atol=1e-5)
