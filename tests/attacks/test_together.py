"""All attacks: what they share, in any order, and that a sample does not see its batch."""

import random

import pytest
import torch

from ldm_scale.attacks.base import Attack
from ldm_scale.attacks.epsilon import Epsilon
from ldm_scale.attacks.installed import known_attacks
from ldm_scale.attacks.loss import Loss
from ldm_scale.attacks.pfami import PFAMI
from ldm_scale.attacks.pia import PIA
from ldm_scale.attacks.pian import PIAN
from ldm_scale.attacks.registry import make_attack
from ldm_scale.attacks.secmi import SecMI
from ldm_scale.attacks.sima import SimA
from tests.attacks.cases import KEYS, SHAPE, Case, latents

CASE = Case("linear", "epsilon")
TWENTY = tuple(range(0, 200, 10))
SHARING = [kind(TWENTY) for kind in (SimA, PIA, PIAN, Loss, Epsilon)]
OURS = ["epsilon", "loss", "pfami", "pfami_published", "pia", "pian", "secmi", "sima", "sima_mc"]


def cost(attacks: list[Attack]) -> int:
    calls: list[int] = []
    evaluations = CASE.evaluations(latents(), calls=calls)
    for attack in attacks:
        attack.vectors(evaluations)
    return len(calls)


@pytest.mark.parametrize("seed", range(6))
def test_six_attacks_cost_99_evaluations_in_any_order(seed: int) -> None:
    """20 each of SimA, PIA, PIAN and Loss, 19 of SecMI, which begins with SimA's first; Epsilon's are Loss's."""
    attacks = [*SHARING, SecMI(TWENTY[:-1])]
    random.Random(seed).shuffle(attacks)
    assert cost(attacks) == 99


@pytest.mark.parametrize("seed", range(6))
def test_vectors_do_not_depend_on_what_ran_before(seed: int) -> None:
    attacks: list[Attack] = [*(make_attack(name, {"timesteps": "0,50"}) for name in OURS)]
    random.Random(seed).shuffle(attacks)
    shared = CASE.evaluations(latents())
    for attack in attacks:
        assert torch.equal(attack.vectors(shared), attack.vectors(CASE.evaluations(latents())))


def test_pfami_shares_its_noisy_latents_with_loss() -> None:
    """t = 0, 50, 100 and 150 are both's, so 4 evaluations less than the two cost apart."""
    pfami = PFAMI(timesteps=(0, 50, 100, 150, 200), crops=(0.9, 0.8))
    apart = cost([Loss(TWENTY)]) + cost([pfami])
    assert apart == 20 + 5 * 3
    assert cost([Loss(TWENTY), pfami]) == cost([pfami, Loss(TWENTY)]) == apart - 4


@pytest.mark.parametrize("name", OURS)
def test_a_sample_does_not_see_its_batch(name: str) -> None:
    attack, z = make_attack(name, {"timesteps": "0,50,100"}), latents()
    whole = attack.vectors(CASE.evaluations(z))
    assert whole.shape == (3, len(KEYS), *SHAPE)
    for n, key in enumerate(KEYS):
        alone = attack.vectors(CASE.evaluations(z[n : n + 1], (key,)))
        torch.testing.assert_close(alone[:, 0], whole[:, n], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OURS)
def test_the_denoiser_is_asked_nowhere_but_where_the_attack_says(name: str) -> None:
    attack, calls = make_attack(name, {"timesteps": "30,60"}), list[int]()
    attack.vectors(CASE.evaluations(latents(), calls=calls))
    assert set(calls) == set(attack.evaluated)


def test_every_installed_attack_is_tried_here() -> None:
    ours = [name for name, point in known_attacks().items() if point.value.startswith("ldm_scale.")]
    assert sorted(ours) == OURS
    assert all(isinstance(make_attack(name, {}), Attack) for name in OURS)
