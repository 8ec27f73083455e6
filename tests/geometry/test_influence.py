"""Influence: closed form of linear decoders, and Hutchinson against the full Jacobian as probes grow."""

import math

import pytest
import scipy.special
import scipy.stats
import torch

from ldm_scale.geometry.influence import FLOOR, exact_influence, hutchinson_influence, log_bias, probe_squares
from ldm_scale.geometry.pullback import product_bytes, pullback_metric
from tests.geometry.decoders import DECODERS, IMAGE, SIMPLE, jacobians, latents, linear_decoder, normal


def test_exact_influence_of_a_linear_decoder_is_the_log_norm_of_its_columns() -> None:
    decoder = linear_decoder()
    expected = decoder.matrix.double().norm(dim=0).log().float()
    for found in exact_influence(pullback_metric(decoder, latents(), 2**30)):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_dimension_without_influence_is_finite_and_lowest() -> None:
    found = exact_influence(torch.diag_embed(torch.tensor([[4.0, 0.0, 1.0]], dtype=torch.float64)))
    torch.testing.assert_close(found, torch.tensor([[math.log(2), 0.5 * math.log(FLOOR), 0.0]]))


@pytest.mark.parametrize("probes", [1, 2, 8, 64])
def test_log_bias_is_the_mean_log_of_a_chi_squared_estimate(probes: int) -> None:
    expected = 0.5 * (scipy.special.digamma(probes / 2) - math.log(probes / 2))
    assert log_bias(probes) == pytest.approx(expected, rel=1e-12)
    draws = scipy.stats.chi2(probes).rvs(200_000, random_state=0) / probes
    # Standard error of the mean log: 0.5 * sqrt(polygamma(1, K/2) / 200,000) < 0.003.
    assert (0.5 * torch.tensor(draws).log()).mean().item() == pytest.approx(expected, abs=0.012)


def test_the_corrected_estimate_is_unbiased_at_few_probes() -> None:
    """The mean over many two-probe estimates meets the exact influence; the uncorrected one misses it by 0.29."""
    decoder, z = linear_decoder(), latents(1)
    exact = exact_influence(pullback_metric(decoder, z, 2**30))[0]
    repeats = 4000
    squares = probe_squares(decoder, z, normal(2 * repeats, 1, *IMAGE), 2**30)
    estimates = torch.stack([hutchinson_influence(pair)[0] for pair in squares.split(2)])
    # Standard error of each mean: 0.5 * sqrt(polygamma(1, 1) / 4000) = 0.010.
    torch.testing.assert_close(estimates.mean(0), exact, rtol=0, atol=0.045)
    assert abs(log_bias(2)) > 0.28


def test_hutchinson_converges_as_one_over_root_k() -> None:
    decoder, z = DECODERS["conv"], latents(4)
    exact = pullback_metric(decoder, z, 2**30).diagonal(dim1=1, dim2=2).float()
    squares = probe_squares(decoder, z, normal(4096, 4, *IMAGE), 2**30)
    for probes in (16, 256, 4096):
        groups = squares.reshape(-1, probes, *squares.shape[1:]).mean(1)
        relative = ((groups / exact - 1) ** 2).mean().sqrt().item()
        # The relative deviation of a mean of K chi-squared draws is sqrt(2/K); its estimate from few groups is loose.
        assert relative == pytest.approx(math.sqrt(2 / probes), rel=0.35)


def test_many_probes_rank_as_the_exact_influence_does() -> None:
    decoder, z = DECODERS["conv"], latents(4)
    exact = exact_influence(pullback_metric(decoder, z, 2**30))
    found = hutchinson_influence(probe_squares(decoder, z, normal(4096, 4, *IMAGE), 2**30))
    torch.testing.assert_close(found, exact, rtol=0, atol=0.06)


@pytest.mark.parametrize("name", SIMPLE)
def test_probe_squares_and_their_influence_follow_the_full_jacobian(name: str) -> None:
    decoder, z, probes = DECODERS[name], latents(), normal(6, 3, *IMAGE)
    full = jacobians(decoder, z)
    expected = torch.einsum("nmd,knm->knd", full, probes.flatten(2).double()).square()
    squares = probe_squares(decoder, z, probes, 2**30)
    torch.testing.assert_close(squares.double(), expected, rtol=1e-3, atol=1e-5 * expected.max().item())
    estimate = 0.5 * expected.mean(0).log() - log_bias(6)
    torch.testing.assert_close(hutchinson_influence(squares).double(), estimate, rtol=0, atol=1e-3)
    exact = 0.5 * full.square().sum(1).log()
    torch.testing.assert_close(exact_influence(pullback_metric(decoder, z, 2**30)).double(), exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SIMPLE)
def test_the_memory_budget_and_the_batch_change_nothing(name: str) -> None:
    decoder, z, probes = DECODERS[name], latents(5), normal(7, 5, *IMAGE)
    alone = torch.cat([probe_squares(decoder, z[n : n + 1], probes[:, n : n + 1], 2**30) for n in range(5)], dim=1)
    for memory in (1, 10 * product_bytes(decoder, z[:1]), 2**30):
        found = probe_squares(decoder, z, probes, memory)
        torch.testing.assert_close(found, alone, rtol=1e-3, atol=1e-6 * alone.max().item())
