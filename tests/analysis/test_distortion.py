"""Distortion from the sum of the influences: Hadamard's inequality, and the line through what was measured."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from ldm_scale.analysis.distortion import FEWEST, complete_distortion, distortion_bound, left_out
from ldm_scale.geometry.distortion import exact_distortion
from ldm_scale.geometry.influence import exact_influence
from ldm_scale.geometry.pullback import Decoder, pullback_metric
from tests.geometry.decoders import DECODERS, LinearDecoder, latents, normal


def both(decoder: Decoder) -> tuple[np.ndarray, np.ndarray]:
    """The bound and the distortion itself of three latents of 8 dimensions."""
    metric = pullback_metric(decoder, latents(), 2**30)
    bound = distortion_bound(exact_influence(metric).mean(1).numpy(), dimensions=8)
    return bound, exact_distortion(metric).numpy()


def test_the_bound_is_exact_if_columns_are_orthogonal() -> None:
    scales = torch.tensor([0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    decoder = LinearDecoder(torch.linalg.qr(normal(48, 8)).Q * scales)
    bound, distortion = both(decoder)
    np.testing.assert_allclose(bound, scales.log().sum(), rtol=1e-5)
    np.testing.assert_allclose(distortion, bound, rtol=1e-5)


@pytest.mark.parametrize("name", ["linear", "conv", "AutoencoderKL"])
def test_otherwise_it_is_an_upper_bound(name: str) -> None:
    bound, distortion = both(DECODERS[name])
    assert (bound > distortion + 1e-3).all()


def samples(count: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Bounds, and distortions around the line 0.8 x - 30."""
    rng = np.random.default_rng(0)
    bound = rng.normal(100, 10, count)
    return bound, 0.8 * bound - 30 + noise * rng.normal(size=count)


def test_what_is_left_out_is_what_a_fit_without_it_says() -> None:
    x, y = samples(9, noise=3)
    naive = [np.polyval(np.polyfit(np.delete(x, i), np.delete(y, i), 1), x[i]) for i in range(9)]
    np.testing.assert_allclose(y - left_out(x, y - np.polyval(np.polyfit(x, y, 1), x)), naive)


def test_unmeasured_samples_lie_on_the_line_and_the_error_is_that_of_others() -> None:
    """Residual noise of 3 nats, as the fit to a hundred samples finds it and as the others have it."""
    bound, truth = samples(4000, noise=3)
    measured = np.where(np.arange(4000) < 100, truth, np.nan).astype(np.float32)
    found, estimate = complete_distortion(measured, bound)
    assert estimate.samples == 3900
    np.testing.assert_array_equal(found[:100], measured[:100])
    np.testing.assert_allclose(found[100:], estimate.slope * bound[100:] + estimate.intercept)
    assert estimate.slope == pytest.approx(0.8, abs=0.1)
    assert estimate.spread == pytest.approx(truth[:100].std(), rel=1e-4)
    error = np.sqrt(np.square(found[100:] - truth[100:]).mean())
    assert estimate.residual == pytest.approx(error, rel=0.15)
    assert estimate.correlation == pytest.approx(spearmanr(found[100:], truth[100:]).statistic, abs=0.05)


@pytest.mark.parametrize("known", [0, FEWEST - 1])
def test_too_few_measured_samples_leave_the_bound_to_all(known: int) -> None:
    bound, truth = samples(20, noise=0)
    found, estimate = complete_distortion(np.where(np.arange(20) < known, truth, np.nan), bound)
    np.testing.assert_array_equal(found, bound)
    assert (estimate.samples, estimate.slope, estimate.intercept) == (20, 1, 0)
    assert np.isnan([estimate.correlation, estimate.residual, estimate.spread]).all()


def test_a_line_without_noise_is_found_by_the_fewest() -> None:
    bound, truth = samples(20, noise=0)
    found, estimate = complete_distortion(np.where(np.arange(20) < FEWEST, truth, np.nan), bound)
    np.testing.assert_allclose(found, truth)
    assert (estimate.samples, estimate.correlation) == (12, 1)
    assert estimate.residual == pytest.approx(0, abs=1e-9)
