"""Influence: closed form of linear decoders, and Hutchinson against the full Jacobian as probes grow."""

import math

import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from ldm_scale.geometry.influence import FLOOR, exact_influence, hutchinson_influence, log_bias, probe_squares
from ldm_scale.geometry.pullback import metric
from tests.geometry.test_pullback import LinearDecoder, conv_decoder, latents


def normal(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_exact_influence_of_a_linear_decoder_is_the_log_norm_of_its_columns() -> None:
    decoder = LinearDecoder()
    expected = decoder.matrix.double().norm(dim=0).log().float()
    for found in exact_influence(metric(decoder, latents(), 2**30)):
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
    decoder, z = LinearDecoder(), latents(1)
    exact = exact_influence(metric(decoder, z, 2**30))[0]
    repeats = 4000
    squares = probe_squares(decoder, z, normal(2 * repeats, 1, 3, 4, 4), 2**30)
    estimates = torch.stack([hutchinson_influence(pair)[0] for pair in squares.split(2)])
    # Standard error of each mean: 0.5 * sqrt(polygamma(1, 1) / 4000) = 0.010.
    torch.testing.assert_close(estimates.mean(0), exact, rtol=0, atol=0.045)
    assert abs(log_bias(2)) > 0.28


def test_hutchinson_converges_as_one_over_root_k() -> None:
    decoder, z = conv_decoder(), latents(4)
    exact = metric(decoder, z, 2**30).diagonal(dim1=1, dim2=2).float()
    squares = probe_squares(decoder, z, normal(4096, 4, 3, 4, 4), 2**30)
    for probes in (16, 256, 4096):
        groups = squares.reshape(-1, probes, *squares.shape[1:]).mean(1)
        relative = ((groups / exact - 1) ** 2).mean().sqrt().item()
        # The relative deviation of a mean of K chi-squared draws is sqrt(2/K); its estimate from few groups is loose.
        assert relative == pytest.approx(math.sqrt(2 / probes), rel=0.35)


def test_many_probes_rank_as_the_exact_influence_does() -> None:
    decoder, z = conv_decoder(), latents(4)
    exact = exact_influence(metric(decoder, z, 2**30))
    found = hutchinson_influence(probe_squares(decoder, z, normal(4096, 4, 3, 4, 4), 2**30))
    torch.testing.assert_close(found, exact, rtol=0, atol=0.06)


@pytest.mark.parametrize("memory", [1, 20_000, 2**30])
def test_chunks_do_not_change_a_result(memory: int) -> None:
    decoder, z, probes = conv_decoder(), latents(5), normal(7, 5, 3, 4, 4)
    whole = torch.cat([probe_squares(decoder, z[n : n + 1], probes[:, n : n + 1], 2**30) for n in range(5)], dim=1)
    torch.testing.assert_close(probe_squares(decoder, z, probes, memory), whole, rtol=1e-4, atol=1e-6)
