"""Scores of masks and drop shares against explicit sums over bins."""

import numpy as np
import pytest

from ldm_scale.analysis.scores import Mask, averaged, mask_score, mask_scores

SAMPLES, BINS = 6, 20


@pytest.fixture
def spectra() -> np.ndarray:
    return np.random.default_rng(0).random((SAMPLES, BINS), dtype=np.float32)


@pytest.mark.parametrize("dropped", [0, 1, 6, 8, 14, 19])
@pytest.mark.parametrize("mask", Mask)
def test_scores_are_minus_the_sum_of_the_kept_bins(spectra: np.ndarray, mask: Mask, dropped: int) -> None:
    expected = np.zeros(SAMPLES)
    for i in range(SAMPLES):
        for b in range(BINS):
            keep = b < BINS - dropped if mask in ("highest", "random") else b >= dropped
            expected[i] -= float(spectra[i, b]) * keep
    np.testing.assert_allclose(mask_score(spectra, mask, dropped), expected, rtol=1e-12)


@pytest.mark.parametrize("mask", Mask)
def test_all_scores_are_those_of_each_number_of_bins(spectra: np.ndarray, mask: Mask) -> None:
    found = {dropped: scores.copy() for dropped, scores in mask_scores(spectra, mask)}
    assert sorted(found) == list(range(BINS))
    for dropped, scores in found.items():
        np.testing.assert_array_equal(scores, mask_score(spectra, mask, dropped))


def test_lowest_dropped_and_highest_dropped_split_the_full_sum(spectra: np.ndarray) -> None:
    for dropped in range(1, BINS):
        parts = mask_score(spectra, Mask.LOWEST, dropped) + mask_score(spectra, Mask.HIGHEST, BINS - dropped)
        np.testing.assert_allclose(parts, mask_score(spectra, Mask.LOWEST, 0), rtol=1e-12)


def test_at_least_one_bin_is_kept(spectra: np.ndarray) -> None:
    assert all((next(mask_scores(spectra, mask))[1] < 0).all() for mask in Mask)


def test_scores_are_summed_in_double_precision() -> None:
    values = np.full((1, 4), 1.0, dtype=np.float32)
    values[0, 0] = 2.0**25
    assert mask_score(values, Mask.LOWEST, 0)[0] == -(2.0**25 + 3)
    assert mask_score(values, Mask.HIGHEST, 0)[0] == -(2.0**25 + 3)


@pytest.mark.parametrize("mask", Mask)
def test_a_sample_scores_the_same_among_any_others(mask: Mask) -> None:
    spectra = np.random.default_rng(1).lognormal(sigma=9, size=(999, BINS)).astype(np.float32)
    whole = mask_score(spectra, mask, 8)
    some = [mask_score(spectra[a : a + 7], mask, 8) for a in range(0, 999, 7)]
    np.testing.assert_array_equal(np.concatenate(some), whole)


def test_averaging_takes_the_mean_statistic_over_timesteps() -> None:
    spectra = np.random.default_rng(0).random((SAMPLES, 3, BINS), dtype=np.float32)
    found = averaged(spectra)
    assert found.shape == (SAMPLES, 1, BINS)
    for i in range(SAMPLES):
        for b in range(BINS):
            assert found[i, 0, b] == pytest.approx(sum(map(float, spectra[i, :, b])) / 3, rel=1e-12)
