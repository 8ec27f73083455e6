"""Pooled influence: closed forms, a naive oracle, and a simulation in which the truth is known."""

import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from ldm_scale.geometry.influence import hutchinson_influence
from ldm_scale.geometry.pooled import (
    WINDOW,
    Profile,
    mean_profile,
    noise_variance,
    pooled_influence,
    profile_variance,
)
from ldm_scale.geometry.stability import mask_overlap
from tests.geometry.decoders import normal

SHAPE = (4, 8, 8)
DIMENSIONS = 256
SPREAD = 0.2


def truth(n: int, alike: int = 1) -> Tensor:
    """Influences of n samples: a level of their own, a profile shared by all, and a spread around it.

    Squares of so many positions a side depart from the profile alike.
    """
    profile, side = 0.5 * normal(1, DIMENSIONS, seed=0), SHAPE[1] // alike
    spread = normal(n, SHAPE[0], side, side, seed=2).repeat_interleave(alike, 2).repeat_interleave(alike, 3)
    return normal(n, 1, seed=1) + profile + SPREAD * spread.flatten(1)


def estimates(true: Tensor, probes: int, seed: int = 3) -> Tensor:
    """What K probes make of the truth: (J^T v)_i is normal with variance G_ii."""
    return hutchinson_influence((true.exp() * normal(probes, *true.shape, seed=seed)).square())


def fit(true: Tensor, probes: int) -> Profile:
    first, second = (estimates(true, probes, seed).unflatten(1, SHAPE) for seed in (4, 5))
    return Profile.of(first, second, probes)


@pytest.mark.parametrize("probes", [1, 2, 4, 16])
def test_noise_variance_is_that_of_a_log_chi_squared(probes: int) -> None:
    assert noise_variance(probes) == pytest.approx(0.25 * scipy.special.polygamma(1, probes / 2), rel=1e-8)
    draws = scipy.stats.chi2(probes).rvs(200_000, random_state=0)
    # The variance of 200,000 draws is known to about half a percent, less well for the long tail of one probe.
    assert 0.25 * torch.tensor(draws).log().var().item() == pytest.approx(noise_variance(probes), rel=0.03)


def test_the_mean_and_the_variance_around_it_are_found() -> None:
    true = truth(1000)
    expected = (true - true.mean(1, keepdim=True)).mean(0)
    # Standard error of each mean: sqrt((0.04 + 0.16) / 1000) = 0.014.
    torch.testing.assert_close(mean_profile(estimates(true, 4)), expected, rtol=0, atol=0.06)
    assert profile_variance(estimates(true, 4), probes=4) == pytest.approx(SPREAD**2, rel=0.1)
    assert profile_variance(normal(3, 8, seed=4) * 0.01, probes=2) == 0.0


def test_the_filter_is_ridge_regression_on_the_windows_around_each_position() -> None:
    """By a loop over positions, and numbers that stand beside those of the regression for its ridge."""
    c, h, w = 2, 4, 3
    first, second = normal(6, c, h, w, seed=0), normal(6, c, h, w, seed=1)
    profile = Profile.of(first, second, probes=2)
    both = torch.stack([first, second]).double()
    mean = (both - both.mean((2, 3, 4), keepdim=True)).mean((0, 1))
    torch.testing.assert_close(profile.mean, mean.float())
    departing = both - both.mean((2, 3, 4), keepdim=True) - mean
    half = WINDOW // 2
    rows, wanted = [], []
    for seen, other in (departing, departing.flip(0)):
        for sample in range(6):
            for y in range(h):
                for x in range(w):
                    around = torch.zeros(c, WINDOW, WINDOW, dtype=torch.float64)
                    for dy in range(-half, half + 1):
                        for dx in range(-half, half + 1):
                            if 0 <= y + dy < h and 0 <= x + dx < w:
                                around[:, dy + half, dx + half] = seen[sample, :, y + dy, x + dx]
                    rows.append(around.flatten())
                    wanted.append(other[sample, :, y, x])
    m = c * WINDOW**2
    ridge = m * noise_variance(2) ** 0.5 * torch.eye(m, dtype=torch.float64)
    x, y = torch.cat([torch.stack(rows), ridge]), torch.cat([torch.stack(wanted), torch.zeros(m, c)])
    expected = torch.linalg.lstsq(x, y).solution.T.reshape(c, c, WINDOW, WINDOW)
    torch.testing.assert_close(profile.filter, expected.float(), rtol=1e-4, atol=1e-6)
    # And what it makes of the last sample, whose mean stays.
    smoothed = (torch.stack(rows[5 * h * w : 6 * h * w]) @ expected.flatten(1).T).T.flatten()
    own = first[-1].double().mean()
    found = pooled_influence(first[-1].flatten()[None], profile)[0]
    torch.testing.assert_close(found, (own + mean.flatten() + smoothed - smoothed.mean()).float())
    assert found.mean().item() == pytest.approx(own.item(), abs=1e-6)


def test_samples_that_differ_by_less_than_the_noise_does_have_hardly_more_than_the_profile() -> None:
    alike = (normal(3, *SHAPE, seed=4) * 0.01, normal(3, *SHAPE, seed=5) * 0.01)
    profile = Profile.of(*alike, probes=2)
    found, own = pooled_influence(alike[0].flatten(1), profile), alike[0].flatten(1).mean(1, keepdim=True)
    torch.testing.assert_close(found, own + profile.mean.flatten(), rtol=0, atol=1e-4)


def test_one_sample_makes_no_profile() -> None:
    with pytest.raises(ValueError, match="two samples"):
        Profile.of(normal(1, *SHAPE), normal(1, *SHAPE), probes=2)


@pytest.mark.parametrize("probes", [2, 4])
def test_pooling_finds_the_lowest_dimensions_better(probes: int) -> None:
    """The lowest 40 percent: measured raw 0.66 and 0.75, pooled 0.85 and 0.86, at 2 and 4 probes."""
    known, true = truth(1300).split([1000, 300])
    raw, profile = estimates(true, probes), fit(known, probes)
    pooled = pooled_influence(raw, profile)
    gain = mask_overlap(pooled, true, 0.4).mean() - mask_overlap(raw, true, 0.4).mean()
    assert gain > 0.1
    # Better than the profile alone (0.84), too: the sample's own estimate counts.
    alone = profile.mean.flatten().expand(300, -1)
    assert mask_overlap(pooled, true, 0.4).mean() > mask_overlap(alone, true, 0.4).mean()
    # And nearer in value. Neighbours say nothing here, so the best is a dimension's own: variance * noise / (variance +
    # noise) is left.
    left, noise = (pooled - true).square().mean().item(), noise_variance(probes)
    assert left == pytest.approx(SPREAD**2 * noise / (SPREAD**2 + noise), rel=0.1)


def test_what_neighbours_share_is_found_from_fewer_probes() -> None:
    """Squares of 4 positions depart from the profile alike: 2 probes of each are worth 8 of one that is alone."""
    known, true = truth(600, alike=4).split(300)
    pooled = pooled_influence(estimates(true, 2), fit(known, 2))
    left, noise = (pooled - true).square().mean().item(), noise_variance(2)
    assert left < SPREAD**2 * noise / 4 / (SPREAD**2 + noise / 4)


def test_a_row_depends_on_its_own_sample_only() -> None:
    raw = estimates(truth(50), 4)
    profile = fit(truth(50), 4)
    alone = torch.cat([pooled_influence(row[None], profile) for row in raw])
    torch.testing.assert_close(pooled_influence(raw, profile), alone, rtol=1e-6, atol=1e-7)
