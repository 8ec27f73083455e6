"""Influence spectra against an explicit mask and sum."""

import math

import pytest
import torch

from ldm_scale.attacks.spectra import rank_bins, spectrum


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("dimensions", "bins"), [(20, 20), (256, 20), (37, 5), (256, 2)])
def test_suffix_sums_are_the_statistic_of_an_explicit_mask(dimensions: int, bins: int) -> None:
    influence, vectors, p = draws(3, dimensions, seed=1), draws(4, 3, dimensions, seed=2), 4.0
    found = spectrum(vectors, rank_bins(influence, bins), p, bins)
    for n in range(3):
        order = sorted(range(dimensions), key=lambda i, n=n: (influence[n, i].item(), i))
        for dropped in range(bins):
            count = math.ceil(dropped / bins * dimensions - 1e-9)
            lowest, highest = order[:count], order[math.ceil((bins - dropped) / bins * dimensions - 1e-9) :]
            for t in range(4):
                kept = sum(abs(vectors[t, n, i].item()) ** p for i in range(dimensions) if i not in lowest)
                reversed_ = sum(abs(vectors[t, n, i].item()) ** p for i in range(dimensions) if i not in highest)
                assert found[n, t, dropped:].sum().item() == pytest.approx(kept, rel=1e-5)
                assert found[n, t, : bins - dropped].sum().item() == pytest.approx(reversed_, rel=1e-5)


def test_bins_hold_equal_shares() -> None:
    counts = torch.bincount(rank_bins(draws(1, 256), 20)[0], minlength=20)
    assert counts.tolist() == [math.ceil((b + 1) * 256 / 20) - math.ceil(b * 256 / 20) for b in range(20)]


def test_ties_go_by_dimension() -> None:
    assert rank_bins(torch.zeros(1, 6), 3).tolist() == [[0, 0, 1, 1, 2, 2]]


def test_a_sample_does_not_see_its_batch() -> None:
    influence, vectors = draws(5, 64), draws(2, 5, 64)
    whole = spectrum(vectors, rank_bins(influence, 4), 2.0, 4)
    for n in range(5):
        alone = spectrum(vectors[:, n : n + 1], rank_bins(influence[n : n + 1], 4), 2.0, 4)
        torch.testing.assert_close(alone[0], whole[n], rtol=1e-6, atol=0)
