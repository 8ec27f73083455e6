"""PIAN against its definition."""

import math

import pytest
from torch import Tensor

from ldm_scale.attacks.pian import PIAN
from tests.attacks.cases import CASES, Case, assert_parity, latents


def one(case: Case, z: Tensor, t: int) -> Tensor:
    e0, abar = case.noise(z, 0), case.abar[t]
    e0 = e0 / (sum(abs(value) for value in e0.flatten().tolist()) / e0.numel()) * math.sqrt(2 / math.pi)
    return e0 - case.noise(abar**0.5 * z + (1 - abar) ** 0.5 * e0, t)


@pytest.mark.parametrize("case", CASES)
def test_vectors_are_what_the_prediction_misses_of_the_scaled_first(case: Case) -> None:
    attack = PIAN(timesteps=(0, 10, 290, 999))
    assert_parity(attack, case, [[one(case, z, t) for z in latents().double()] for t in attack.timesteps])


def test_defaults() -> None:
    assert (PIAN().timesteps, PIAN().p) == (tuple(range(0, 300, 10)), 4)
    assert PIAN(timesteps=(50, 60)).evaluated == (0, 50, 60)
