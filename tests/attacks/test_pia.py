"""PIA against its definition."""

import pytest
from torch import Tensor

from ldm_scale.attacks.pia import PIA
from tests.attacks.cases import CASES, Case, assert_parity, latents


def one(case: Case, z: Tensor, t: int) -> Tensor:
    e0, abar = case.noise(z, 0), case.abar[t]
    return e0 - case.noise(abar**0.5 * z + (1 - abar) ** 0.5 * e0, t)


@pytest.mark.parametrize("case", CASES)
def test_vectors_are_what_the_prediction_misses_of_the_first(case: Case) -> None:
    attack = PIA(timesteps=(0, 10, 290, 999))
    assert_parity(attack, case, [[one(case, z, t) for z in latents().double()] for t in attack.timesteps])


def test_defaults() -> None:
    assert (PIA().timesteps, PIA().p) == (tuple(range(0, 300, 10)), 4)
    assert PIA(timesteps=(50, 60)).evaluated == (0, 50, 60)
