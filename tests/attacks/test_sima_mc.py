"""SimA-MC against its definition, one draw at a time."""

import pytest
import torch
from torch import Tensor

from ldm_scale.attacks.epsilon import Epsilon
from ldm_scale.attacks.sima_mc import SimAMC
from tests.attacks.cases import CASES, Case, assert_parity, draws, latents


def purposes(t: int, count: int) -> list[str]:
    return [f"noise {t}", *(f"noise {t}, draw {k}" for k in range(2, count + 1))]


def one(case: Case, n: int, t: int, count: int) -> Tensor:
    z, abar = latents()[n].double(), case.abar[t]
    total = torch.zeros_like(z)
    for purpose in purposes(t, count):
        total += case.noise(abar**0.5 * z + (1 - abar) ** 0.5 * draws(purpose)[n].double(), t)
    return total / count


@pytest.mark.parametrize("case", CASES)
def test_vectors_are_the_mean_prediction_over_the_draws(case: Case) -> None:
    attack = SimAMC(timesteps=(0, 10, 999), draws=3)
    expected = [[one(case, n, t, 3) for n in range(len(latents()))] for t in attack.timesteps]
    assert_parity(attack, case, expected)


def test_one_draw_is_epsilon_and_costs_nothing_beside_it() -> None:
    calls: list[int] = []
    evaluations = Case("linear", "epsilon").evaluations(latents(), calls=calls)
    found = SimAMC(timesteps=(0, 50), draws=1).vectors(evaluations)
    assert torch.equal(found, Epsilon(timesteps=(0, 50)).vectors(evaluations))
    assert sorted(calls) == [0, 50]
    SimAMC(timesteps=(0, 50), draws=4).vectors(evaluations)
    assert sorted(calls) == 4 * [0] + 4 * [50]


def test_defaults() -> None:
    assert (SimAMC().timesteps, SimAMC().p, SimAMC().draws) == (tuple(range(0, 300, 10)), 4, 8)


def test_no_draw_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^draws: 0 is not positive$"):
        SimAMC(draws=0)
