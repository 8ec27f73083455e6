"""Epsilon against its definition."""

import pytest
from torch import Tensor

from ldm_scale.attacks.epsilon import Epsilon
from tests.attacks.cases import CASES, Case, assert_parity, draws, latents


def one(case: Case, z: Tensor, e: Tensor, t: int) -> Tensor:
    abar = case.abar[t]
    return case.noise(abar**0.5 * z + (1 - abar) ** 0.5 * e, t)


@pytest.mark.parametrize("case", CASES)
def test_vectors_are_the_prediction_on_the_noisy_latent(case: Case) -> None:
    attack = Epsilon(timesteps=(0, 10, 290, 999))
    expected = [
        [one(case, z, e, t) for z, e in zip(latents().double(), draws(f"noise {t}").double(), strict=True)]
        for t in attack.timesteps
    ]
    assert_parity(attack, case, expected)


def test_defaults() -> None:
    assert (Epsilon().timesteps, Epsilon().p) == (tuple(range(0, 300, 10)), 4)
