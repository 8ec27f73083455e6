"""SimA against its definition, one sample and one timestep at a time."""

import pytest

from ldm_scale.attacks.sima import SimA
from tests.attacks.cases import CASES, Case, assert_parity, latents


@pytest.mark.parametrize("case", CASES)
def test_vectors_are_the_prediction_on_the_clean_latent(case: Case) -> None:
    attack = SimA(timesteps=(0, 7, 190))
    assert_parity(attack, case, [[case.noise(z, t) for z in latents().double()] for t in attack.timesteps])


def test_defaults_are_the_papers() -> None:
    assert SimA().timesteps == tuple(range(0, 300, 10))
    assert SimA().evaluated == SimA().timesteps
    assert SimA().p == 4
