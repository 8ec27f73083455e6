"""Stochastic Lanczos quadrature against the full spectrum, and its convergence in probes and steps."""

import math

import pytest
import torch
from torch import Tensor, nn

from ldm_scale.geometry.pullback import TracedDecoder, product_bytes
from ldm_scale.geometry.slq import slq_distortion
from tests.geometry.decoders import (
    SHAPE,
    WIDE,
    WIDE_DECODERS,
    WIDE_SIMPLE,
    LinearDecoder,
    jacobians,
    latents,
    linear_decoder,
    normal,
)


def log_spectrum(decoder: nn.Module | TracedDecoder, z: Tensor) -> tuple[Tensor, Tensor]:
    """log sigma_i (n, d), and the right singular vectors as rows (n, d, d)."""
    _, values, vectors = torch.linalg.svd(jacobians(decoder, z), full_matrices=False)
    return values.log(), vectors


@pytest.mark.parametrize("name", WIDE_SIMPLE)
def test_with_as_many_steps_as_dimensions_the_quadrature_is_exact(name: str) -> None:
    """D * mean of v^T log(G^(1/2)) v over these very probes, off by float32's rounding.

    Measured: less than 2e-4 nats, up to condition numbers of 1e5 (attention).
    """
    decoder, z, probes = WIDE_DECODERS[name], latents(3, WIDE), normal(4, 3, *WIDE)
    logs, vectors = log_spectrum(decoder, z)
    unit = nn.functional.normalize(probes.flatten(2).double(), dim=2)
    weights = torch.einsum("nij,knj->kni", vectors, unit).square()
    expected = 64 * (weights * logs).sum(2).mean(0)
    found = slq_distortion(decoder, z, probes, 2**30, steps=64)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", WIDE_SIMPLE)
def test_it_estimates_the_log_determinant(name: str) -> None:
    """Within four standard errors, sqrt(2 * sum_i (log sigma_i - mean)^2 / k) each, of the sum of log sigma_i."""
    decoder, z = WIDE_DECODERS[name], latents(3, WIDE)
    logs, _ = log_spectrum(decoder, z)
    found = slq_distortion(decoder, z, normal(64, 3, *WIDE), 2**30, steps=64)
    error = (2 / 64 * logs.var(1, unbiased=False) * 64).sqrt()
    assert ((found - logs.sum(1)).abs() <= 4 * error + 1e-3).all()


def test_the_error_falls_as_one_over_root_probes() -> None:
    """Root mean square over 128 repeats, of which it is known to 6 percent; D / (D + 2) as the probes are unit."""
    decoder, repeats = linear_decoder(), latents(1).repeat(128, 1, 1, 1)
    logs = log_spectrum(decoder, latents(1))[0][0]
    for probes in (4, 16, 64):
        found = slq_distortion(decoder, repeats, normal(probes, 128, *SHAPE), 2**30)
        error = (found - logs.sum()).square().mean().sqrt().item()
        spread = (logs - logs.mean()).square().sum().item()
        assert error == pytest.approx(math.sqrt(2 * 8 / 10 * spread / probes), rel=0.25)


@pytest.mark.parametrize("name", ["exponential", "harmonic", "attention"])
def test_the_error_falls_with_steps(name: str) -> None:
    """Steps too few for the spectrum overestimate it, more so the larger its condition number."""
    decoder, z, probes = WIDE_DECODERS[name], latents(2, WIDE), normal(4, 2, *WIDE)
    whole = slq_distortion(decoder, z, probes, 2**30, steps=64)
    excess = torch.stack([slq_distortion(decoder, z, probes, 2**30, steps) - whole for steps in (5, 10, 20, 40)])
    assert (excess.diff(dim=0) < 0).all()
    assert (excess > -1e-3).all()


def test_the_usual_settings() -> None:
    """16 probes of 30 steps for an autoencoder's 64 dimensions: measured 4.0 nats off -119 to -136 (3 percent).

    One nat of it is the steps', the rest the probes'.
    """
    decoder, z = WIDE_DECODERS["AutoencoderKL"], latents(8, WIDE)
    found = slq_distortion(decoder, z, normal(16, 8, *WIDE), 2**30)
    expected = log_spectrum(decoder, z)[0].sum(1)
    assert (found - expected).square().mean().sqrt() < 6.0


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_a_flat_spectrum_is_exact_with_one_probe(steps: int) -> None:
    """The first step exhausts the space; those after it add nothing."""
    found = slq_distortion(WIDE_DECODERS["flat"], latents(2, WIDE), normal(1, 2, *WIDE), 2**30, steps)
    torch.testing.assert_close(found, torch.full((2,), 64 * math.log(2)), rtol=1e-5, atol=0)


def test_an_exact_breakdown_is_no_division_by_zero() -> None:
    decoder = LinearDecoder(torch.eye(48, 8) * 4)
    found = slq_distortion(decoder, latents(2), torch.ones(3, 2, *SHAPE), 2**30)
    torch.testing.assert_close(found, torch.full((2,), 8 * math.log(4)))


def test_rademacher_and_gaussian_probes_of_any_length_serve() -> None:
    decoder, z, probes = linear_decoder(), latents(2), normal(8, 2, *SHAPE)
    whole = slq_distortion(decoder, z, probes, 2**30)
    torch.testing.assert_close(slq_distortion(decoder, z, 7 * probes, 2**30), whole, rtol=1e-4, atol=1e-4)
    signs = normal(256, 2, *SHAPE).sign()
    expected = log_spectrum(decoder, z)[0].sum(1)
    torch.testing.assert_close(slq_distortion(decoder, z, signs, 2**30).double(), expected, rtol=0, atol=0.5)


def test_a_singular_decoder_is_not_nan() -> None:
    """It should be -inf; a rounding error's logarithm, weighted by chance, stands for the ignored dimension."""
    matrix = linear_decoder().matrix.clone()
    matrix[:, 7] = 0
    whole = slq_distortion(linear_decoder(), latents(), normal(8, 3, *SHAPE), 2**30)
    found = slq_distortion(LinearDecoder(matrix), latents(), normal(8, 3, *SHAPE), 2**30)
    assert not found.isnan().any()
    assert (found < whole - 8).all()
    nothing = slq_distortion(LinearDecoder(torch.zeros(48, 8)), latents(), normal(8, 3, *SHAPE), 2**30)
    assert torch.equal(nothing, torch.full((3,), -torch.inf))


def test_the_memory_budget_and_the_batch_change_nothing() -> None:
    """Measured: 2e-4 nats of rounding."""
    decoder, z, probes = WIDE_DECODERS["conv"], latents(3, WIDE), normal(2, 3, *WIDE)
    alone = torch.cat([slq_distortion(decoder, z[n : n + 1], probes[:, n : n + 1], 2**30, steps=12) for n in range(3)])
    for memory in (1, 5 * product_bytes(decoder, z[:1]), 2**30):
        found = slq_distortion(decoder, z, probes, memory, steps=12)
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-3)
