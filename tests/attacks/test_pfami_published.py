"""PFAMI as published, against its rules written out in double loops, and that no mask changes its ranking."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm_scale.attacks.pfami_published import PublishedPFAMI, whole_crop
from ldm_scale.attacks.spectra import rank_bins, spectrum
from tests.attacks.cases import CASES, KEYS, Case, assert_parity, draws, latents

CASE = Case("linear", "epsilon")


def crop(z: Tensor, share: float) -> Tensor:
    """The window of int(side * share) dimensions, magnified about its middle; its last row and column reach beyond."""
    _, h, w = z.shape
    window, cut = {}, torch.empty_like(z)
    for name, side in (("row", h), ("column", w)):
        size = int(side * share)
        window[name] = ((side - size) // 2, size)
    for i in range(h):
        for j in range(w):
            points = [((i, h), window["row"]), ((j, w), window["column"])]
            near = []
            for (place, side), (start, size) in points:
                # The centre of dimension `place` of `side`, on a window of `size`, kept between its outer centres.
                at = min(max((place + 0.5) * size / side - 0.5, 0.0), size - 1.0)
                low = min(int(at), size - 1)
                near.append(((start + low, 1 - (at - low)), (start + min(low + 1, size - 1), at - low)))
            cut[:, i, j] = sum(a * b * z[:, r, c] for r, a in near[0] for c, b in near[1])
    return cut


def mean_loss(case: Case, x: Tensor, n: int, t: int, purpose: str) -> float:
    e, abar = draws(purpose)[n].double(), case.abar[t]
    error = case.noise(abar**0.5 * x + (1 - abar) ** 0.5 * e, t) - e
    return (error**2).mean().item()


def fluctuation(case: Case, n: int, timesteps: tuple[int, ...], shares: tuple[float, ...]) -> float:
    z = latents()[n].double()
    own = sum(mean_loss(case, z, n, t, f"noise {t}") for t in timesteps) / len(timesteps)
    total = 0.0
    for share in shares:
        losses = [mean_loss(case, crop(z, share), n, t, f"noise {t}, crop {share}") for t in timesteps]
        total += (own - sum(losses) / len(timesteps)) ** 2
    return total / len(shares)


@pytest.mark.parametrize("case", CASES)
def test_the_statistic_is_the_squared_change_of_the_mean_loss(case: Case) -> None:
    """Of one sample, at each timestep: the sum of S^2 over dimensions, which are all alike."""
    attack = PublishedPFAMI(timesteps=(0, 150, 450), crops=(0.95, 0.75, 0.5))
    numbers = [fluctuation(case, n, attack.timesteps, attack.crops) for n in range(len(KEYS))]
    size = latents()[0].numel()
    each = [torch.full(latents()[0].shape, math.sqrt(number / size), dtype=torch.float64) for number in numbers]
    assert_parity(attack, case, [each] * 3)
    sums = (attack.vectors(CASE.evaluations(latents())).abs() ** attack.p).flatten(2).sum(2)
    assert (sums == sums[0]).all()


@pytest.mark.parametrize("side", [8, 16, 32, 64, 128])
def test_default_windows_are_the_papers(side: int) -> None:
    """Its shares are ten from 0.95 to 0.70 in single precision."""
    z = torch.arange(side * side, dtype=torch.float64).reshape(1, 1, side, side)
    for share, theirs in zip(PublishedPFAMI().crops, np.linspace(0.95, 0.7, 10, dtype=np.float32), strict=True):
        size = int(side * float(theirs))
        start = (side - size) // 2
        window = z[:, :, start : start + size, start : start + size]
        found = whole_crop(z, share)
        expected = torch.nn.functional.interpolate(window, size=(side, side), mode="bilinear", align_corners=False)
        assert torch.equal(found, expected)
        assert found[0, 0, 0, 0] == start * side + start


def test_a_crop_of_nothing_is_one_dimension() -> None:
    assert whole_crop(torch.arange(9.0).reshape(1, 1, 3, 3), 0.1).unique().tolist() == [4]


@pytest.mark.parametrize("bins", [7, 20])
def test_every_mask_keeps_the_same_part_of_every_sample(bins: int) -> None:
    """48 dimensions in 7 or 20 bins, which are of unequal size: by their samples' own influences or at random."""
    vectors = PublishedPFAMI(timesteps=(50,), crops=(0.75,)).vectors(CASE.evaluations(latents())).flatten(2)
    whole = (vectors[0].double() ** 2).sum(1)
    for name in ("influences", "random order"):
        scores = draws(name).flatten(1)
        found = spectrum(vectors, rank_bins(scores, bins), 2.0, bins)[:, 0].double()
        sizes = torch.bincount(torch.arange(48) * bins // 48, minlength=bins) / 48
        torch.testing.assert_close(found / whole[:, None], sizes.double().expand(len(KEYS), -1), rtol=1e-5, atol=0)
        kept = found.flip(1).cumsum(1)
        for column in kept.T:
            assert column.argsort().tolist() == whole.argsort().tolist()


def test_it_costs_one_shared_evaluation_a_timestep_and_one_a_crop() -> None:
    calls: list[int] = []
    evaluations = CASE.evaluations(latents(), calls=calls)
    attack = PublishedPFAMI()
    attack.vectors(evaluations)
    assert sorted(calls) == sorted(11 * attack.timesteps)
    evaluations.diffused_at(attack.timesteps)
    assert len(calls) == 110


def test_defaults_are_the_papers() -> None:
    attack = PublishedPFAMI()
    assert (attack.timesteps, attack.p, len(attack.crops)) == (tuple(range(0, 500, 50)), 2, 10)
