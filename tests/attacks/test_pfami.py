"""PFAMI against its definition, one dimension of a crop at a time."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm_scale.attacks.pfami import PFAMI, centre_crop
from tests.attacks.cases import CASES, Case, assert_parity, draws, latents


def between(z: Tensor, row: float, column: float) -> Tensor:
    """(c,) of a latent (c, h, w) at a point between centres of its dimensions, bilinear."""
    total = torch.zeros(len(z), dtype=torch.float64)
    for i in range(z.shape[1]):
        for j in range(z.shape[2]):
            total += max(0.0, 1 - abs(row - i)) * max(0.0, 1 - abs(column - j)) * z[:, i, j].double()
    return total


def crop(z: Tensor, share: float) -> Tensor:
    """The window of that share of the sides around the middle, cut into as many equal dimensions as the latent has."""
    cut = torch.empty_like(z, dtype=torch.float64)
    _, h, w = z.shape
    for i in range(h):
        for j in range(w):
            # The latent spans [0, h] by [0, w], with centres at halves; the window starts at (1 - share) / 2 of it.
            row = h * (1 - share) / 2 + (i + 0.5) * share - 0.5
            column = w * (1 - share) / 2 + (j + 0.5) * share - 0.5
            cut[:, i, j] = between(z, row, column)
    return cut


def losses(case: Case, x: Tensor, e: Tensor, t: int) -> Tensor:
    abar = case.abar[t]
    return (e - case.noise(abar**0.5 * x + (1 - abar) ** 0.5 * e, t)) ** 2


def one(case: Case, z: Tensor, e: Tensor, t: int, shares: tuple[float, ...]) -> Tensor:
    squares = [(losses(case, z, e, t) - losses(case, crop(z, share), e, t)) ** 2 for share in shares]
    return (sum(squares, torch.zeros_like(z)) / len(shares)).sqrt()


@pytest.mark.parametrize("case", CASES)
def test_vectors_are_the_fluctuation_of_the_loss_under_crops(case: Case) -> None:
    attack = PFAMI(timesteps=(0, 150), crops=(0.95, 0.8, 0.7))
    expected = [
        [
            one(case, z, e, t, attack.crops)
            for z, e in zip(latents().double(), draws(f"noise {t}").double(), strict=True)
        ]
        for t in attack.timesteps
    ]
    assert_parity(attack, case, expected)


def test_the_statistic_is_the_squared_fluctuation_by_dimension() -> None:
    case, attack = Case("linear", "epsilon"), PFAMI(timesteps=(100,), crops=(0.9, 0.75))
    z, e = latents()[0].double(), draws("noise 100")[0].double()
    squares = [((losses(case, z, e, 100) - losses(case, crop(z, s), e, 100)) ** 2).sum().item() for s in (0.9, 0.75)]
    found = (attack.vectors(case.evaluations(latents()))[0, 0].abs() ** attack.p).sum().item()
    assert found == pytest.approx(sum(squares) / 2, rel=1e-4)


@pytest.mark.parametrize("side", [8, 32, 64])
def test_every_default_share_has_a_crop_of_its_own(side: int) -> None:
    z = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    crops = [z, *(centre_crop(z, share) for share in PFAMI().crops)]
    for number, first in enumerate(crops):
        for second in crops[number + 1 :]:
            assert (first - second).abs().max() > 0.05


def test_a_crop_magnifies_about_the_middle_and_pads_nothing() -> None:
    rows, columns = torch.meshgrid(torch.arange(8.0) - 3.5, torch.arange(8.0) - 3.5, indexing="ij")
    ramp = torch.stack([rows, columns, torch.ones(8, 8)])[None]
    expected = torch.stack([0.7 * rows, 0.7 * columns, torch.ones(8, 8)])[None]
    torch.testing.assert_close(centre_crop(ramp, 0.7), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(centre_crop(ramp, 1.0), ramp, rtol=1e-5, atol=1e-6)


def test_each_timestep_costs_one_shared_evaluation_and_one_a_crop() -> None:
    calls: list[int] = []
    evaluations = Case("linear", "epsilon").evaluations(latents(), calls=calls)
    attack = PFAMI()
    attack.vectors(evaluations)
    assert sorted(calls) == sorted(11 * attack.timesteps)
    attack.vectors(evaluations)
    assert len(calls) == 11 * 10 + 10 * 10


def test_defaults_are_the_papers() -> None:
    attack = PFAMI()
    assert (attack.timesteps, attack.p) == (tuple(range(0, 500, 50)), 2)
    assert attack.evaluated == attack.timesteps
    np.testing.assert_allclose(attack.crops, np.linspace(0.95, 0.7, 10), atol=1e-4)


@pytest.mark.parametrize("crops", [(), (0.9, 0.0), (1.5,), (-0.5,), (math.nan,)])
def test_what_is_no_share_is_refused(crops: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="crops: "):
        PFAMI(crops=crops)
