"""Pooled influence: closed forms, and a simulation in which the truth is known."""

import math

import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from ldm_scale.geometry.influence import hutchinson_influence
from ldm_scale.geometry.pooled import Profile, noise_variance, pooled_influence
from ldm_scale.geometry.stability import mask_overlap
from tests.geometry.decoders import normal

DIMENSIONS = 256
SPREAD = 0.2


def truth(n: int) -> Tensor:
    """Influences of n samples: a level of their own, a profile shared by all, and a spread around it."""
    profile = 0.5 * normal(1, DIMENSIONS, seed=0)
    return normal(n, 1, seed=1) + profile + SPREAD * normal(n, DIMENSIONS, seed=2)


def estimates(true: Tensor, probes: int) -> Tensor:
    """What K probes make of the truth: (J^T v)_i is normal with variance G_ii."""
    return hutchinson_influence((true.exp() * normal(probes, *true.shape, seed=3)).square())


@pytest.mark.parametrize("probes", [1, 2, 4, 16])
def test_noise_variance_is_that_of_a_log_chi_squared(probes: int) -> None:
    assert noise_variance(probes) == pytest.approx(0.25 * scipy.special.polygamma(1, probes / 2), rel=1e-8)
    draws = scipy.stats.chi2(probes).rvs(200_000, random_state=0)
    # The variance of 200,000 draws is known to about half a percent, less well for the long tail of one probe.
    assert 0.25 * torch.tensor(draws).log().var().item() == pytest.approx(noise_variance(probes), rel=0.03)


def test_a_profile_finds_the_mean_and_the_variance_around_it() -> None:
    true = truth(1000)
    profile = Profile.of(estimates(true, 4), probes=4)
    expected = (true - true.mean(1, keepdim=True)).mean(0)
    # Standard error of each mean: sqrt((0.04 + 0.16) / 1000) = 0.014.
    torch.testing.assert_close(profile.mean, expected, rtol=0, atol=0.06)
    assert profile.variance == pytest.approx(SPREAD**2, rel=0.1)


def test_the_variance_is_never_negative() -> None:
    """Samples that differ by less than the noise does: nothing is left but the profile."""
    alike = normal(3, 8, seed=4) * 0.01
    profile = Profile.of(alike, probes=2)
    assert profile.variance == 0.0
    found = pooled_influence(alike, profile, probes=2)
    torch.testing.assert_close(found, alike.mean(1, keepdim=True) + profile.mean)


def test_one_sample_makes_no_profile() -> None:
    with pytest.raises(ValueError, match="two samples"):
        Profile.of(normal(1, 8), probes=2)


def test_the_shrinkage_by_hand() -> None:
    """At K = 2 the noise is pi^2 / 24; with a variance of three times that, three quarters of the way stay."""
    profile = Profile(torch.tensor([-1.0, 0.0, 1.0]), 3 * math.pi**2 / 24)
    found = pooled_influence(torch.tensor([[6.0, 10.0, 14.0]]), profile, probes=2)
    torch.testing.assert_close(found, torch.tensor([[10 - 1 - 0.75 * 3, 10.0, 10 + 1 + 0.75 * 3]]))


def test_many_probes_stand_for_themselves() -> None:
    raw = estimates(truth(20), 4)
    profile = Profile.of(raw, probes=4)
    torch.testing.assert_close(pooled_influence(raw, profile, probes=1_000_000), raw, rtol=0, atol=1e-3)


@pytest.mark.parametrize("probes", [2, 4])
def test_pooling_finds_the_lowest_dimensions_better(probes: int) -> None:
    """The lowest 40 percent: measured raw 0.66 and 0.75, pooled 0.85 and 0.86, at 2 and 4 probes."""
    raw, true = estimates(truth(600), probes), truth(600)
    profile = Profile.of(raw[:300], probes)
    pooled = pooled_influence(raw[300:], profile, probes)
    gain = mask_overlap(pooled, true[300:], 0.4).mean() - mask_overlap(raw[300:], true[300:], 0.4).mean()
    assert gain > 0.1
    # Better than the profile alone (0.84), too: the sample's own estimate counts.
    assert (
        mask_overlap(pooled, true[300:], 0.4).mean()
        > mask_overlap(profile.mean.expand(300, -1), true[300:], 0.4).mean()
    )
    # And nearer in value, as the posterior mean must be: variance * noise / (variance + noise) is left.
    left = (pooled - true[300:]).square().mean().item()
    noise = noise_variance(probes)
    assert left == pytest.approx(SPREAD**2 * noise / (SPREAD**2 + noise), rel=0.1)


def test_a_row_depends_on_its_own_sample_only() -> None:
    raw = estimates(truth(50), 4)
    profile = Profile.of(raw, 4)
    alone = torch.cat([pooled_influence(row[None], profile, 4) for row in raw])
    assert torch.equal(pooled_influence(raw, profile, 4), alone)
