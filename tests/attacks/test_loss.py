"""Loss against its definition, and against theory for a known best denoiser."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm_scale.attacks.base import Evaluations
from ldm_scale.attacks.loss import Loss
from tests.attacks.cases import BETAS, CASES, Case, assert_parity, draws, latents


def one(case: Case, z: Tensor, e: Tensor, t: int) -> Tensor:
    abar = case.abar[t]
    return e - case.noise(abar**0.5 * z + (1 - abar) ** 0.5 * e, t)


@pytest.mark.parametrize("case", CASES)
def test_vectors_are_what_the_prediction_misses_of_the_noise(case: Case) -> None:
    attack = Loss(timesteps=(0, 10, 290, 999))
    expected = [
        [one(case, z, e, t) for z, e in zip(latents().double(), draws(f"noise {t}").double(), strict=True)]
        for t in attack.timesteps
    ]
    assert_parity(attack, case, expected)


@pytest.mark.parametrize("schedule", BETAS)
@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_of_gaussian_latents_and_their_best_denoiser_it_is_theorys(schedule: str, spread: float) -> None:
    """z ~ N(0, s^2 I): the best eps(x_t, t) is sqrt(1 - abar) x_t / v, v = abar s^2 + 1 - abar.

    It leaves a normal e - eps of variance abar s^2 / v; the mean of N squares has relative standard error sqrt(2 / N).
    """
    abar = np.cumprod(1 - BETAS[schedule])
    generator = torch.Generator().manual_seed(0)
    z = spread * torch.randn(2000, 4, 4, 4, generator=generator)

    def best(x: Tensor, timesteps: Sequence[int]) -> Tensor:
        factors = [float((1 - abar[t]) ** 0.5 / (abar[t] * spread**2 + 1 - abar[t])) for t in timesteps]
        return torch.tensor(factors).reshape(-1, 1, 1, 1, 1) * x

    def draw(purpose: str) -> Tensor:
        return torch.randn(z.shape, generator=generator)

    attack = Loss(timesteps=(0, 30, 290, 800))
    squares = attack.vectors(Evaluations(z, torch.from_numpy(abar), best, draw)).double().square().flatten(1).mean(1)
    for t, found in zip(attack.timesteps, squares.tolist(), strict=True):
        expected = abar[t] * spread**2 / (abar[t] * spread**2 + 1 - abar[t])
        assert found == pytest.approx(expected, rel=4 * (2 / z.numel()) ** 0.5)


def test_defaults() -> None:
    assert (Loss().timesteps, Loss().evaluated, Loss().p) == ((*range(0, 300, 10),), (*range(0, 300, 10),), 4)
