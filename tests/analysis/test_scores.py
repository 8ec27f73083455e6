"""Scores of masks and drop shares against explicit sums over bins."""

import numpy as np
import pytest

from ldm_scale.analysis.scores import Mask, Spectra

SAMPLES, STEPS, BINS = 6, 3, 20


@pytest.fixture
def spectra() -> Spectra:
    rng = np.random.default_rng(0)
    by_influence = rng.random((SAMPLES, STEPS, BINS), dtype=np.float32)
    # Another order of the same dimensions has other bins and the same total.
    at_random = rng.random((SAMPLES, STEPS, BINS), dtype=np.float32)
    at_random *= by_influence.sum(2, keepdims=True) / at_random.sum(2, keepdims=True)
    globally = by_influence[:, :, rng.permutation(BINS)]
    return Spectra(np.arange(SAMPLES) < 2, (0, 10, 20), by_influence, at_random, globally)


@pytest.mark.parametrize("dropped", [0, 1, 6, 8, 14, 19])
@pytest.mark.parametrize("mask", Mask)
def test_scores_are_minus_the_sum_of_the_kept_bins(spectra: Spectra, mask: Mask, dropped: int) -> None:
    expected = np.zeros((SAMPLES, STEPS))
    for i in range(SAMPLES):
        for t in range(STEPS):
            for b in range(BINS):
                source = {"random": spectra.at_random, "global": spectra.globally}.get(mask, spectra.by_influence)
                keep = b < BINS - dropped if mask == "highest" else b >= dropped
                expected[i, t] -= float(source[i, t, b]) * keep
    np.testing.assert_allclose(spectra.scores(mask, dropped / BINS), expected, rtol=1e-12)


def test_dropping_nothing_is_the_full_sum_for_every_mask(spectra: Spectra) -> None:
    for mask in Mask:
        # The random order's bins were scaled in float32 to the same total.
        np.testing.assert_allclose(spectra.scores(mask, 0.0), -spectra.by_influence.sum(2, dtype=float), rtol=1e-6)


def test_lowest_dropped_and_highest_dropped_split_the_full_sum(spectra: Spectra) -> None:
    for dropped in range(1, BINS):
        parts = spectra.scores(Mask.LOWEST, dropped / BINS) + spectra.scores(Mask.HIGHEST, 1 - dropped / BINS)
        np.testing.assert_allclose(parts, spectra.scores(Mask.LOWEST, 0.0), rtol=1e-12)


def test_shares_keep_at_least_one_bin(spectra: Spectra) -> None:
    assert spectra.bins == BINS
    np.testing.assert_allclose(spectra.shares(), np.arange(BINS) / BINS, atol=1e-15)
    assert all((spectra.scores(mask, spectra.shares()[-1]) < 0).all() for mask in Mask)


def test_scores_are_summed_in_double_precision() -> None:
    values = np.full((1, 1, 4), 1.0, dtype=np.float32)
    values[0, 0, 0] = 2.0**25
    spectra = Spectra(np.array([True]), (0,), values, values)
    assert spectra.scores(Mask.LOWEST, 0.0)[0, 0] == -(2.0**25 + 3)


@pytest.mark.parametrize("rows", [np.array([4, 0, 0]), np.arange(SAMPLES) % 2 == 0])
def test_take_selects_the_same_samples_everywhere(spectra: Spectra, rows: np.ndarray) -> None:
    taken = spectra.take(rows)
    assert taken.timesteps == spectra.timesteps
    np.testing.assert_array_equal(taken.member, spectra.member[rows])
    for mask in Mask:
        np.testing.assert_array_equal(taken.scores(mask, 0.4), spectra.scores(mask, 0.4)[rows])


def test_averaging_takes_the_mean_statistic_over_timesteps(spectra: Spectra) -> None:
    averaged = spectra.averaged()
    assert averaged.timesteps == (None,)
    for mask in Mask:
        expected = spectra.scores(mask, 0.4).mean(axis=1, keepdims=True)
        np.testing.assert_allclose(averaged.scores(mask, 0.4), expected, rtol=1e-6)


def test_the_global_mask_is_there_only_with_its_spectra(spectra: Spectra) -> None:
    assert spectra.masks == list(Mask)
    without = Spectra(spectra.member, spectra.timesteps, spectra.by_influence, spectra.at_random)
    assert without.masks == [Mask.LOWEST, Mask.RANDOM, Mask.HIGHEST]
