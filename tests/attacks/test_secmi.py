"""SecMI against its definition: real DDIM steps, there and back, in double precision."""

import pytest
from torch import Tensor

from ldm_scale.attacks.secmi import SecMI
from tests.attacks.cases import CASES, Case, assert_parity, latents


def ddim(case: Case, x: Tensor, noise: Tensor, t: int, to: int) -> Tensor:
    """The deterministic step from t to another timestep, in either direction."""
    clean = (x - (1 - case.abar[t]) ** 0.5 * noise) / case.abar[t] ** 0.5
    return case.abar[to] ** 0.5 * clean + (1 - case.abar[to]) ** 0.5 * noise


def one(case: Case, z: Tensor, t: int, step: int) -> Tensor:
    x = z
    for s in range(0, t, step):
        x = ddim(case, x, case.noise(x, s), s, s + step)
    after = ddim(case, x, case.noise(x, t), t, t + step)
    back = ddim(case, after, case.noise(after, t + step), t + step, t)
    return back - x


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("timesteps", "step"), [((0, 10, 200, 290), 10), ((150, 0, 50), 25)])
def test_vectors_are_the_error_of_a_step_and_back(case: Case, timesteps: tuple[int, ...], step: int) -> None:
    attack = SecMI(timesteps=timesteps, step=step)
    assert_parity(attack, case, [[one(case, z, t, step) for z in latents().double()] for t in timesteps])


def test_defaults_and_reach() -> None:
    attack = SecMI()
    assert (attack.timesteps, attack.p, attack.step) == (tuple(range(0, 300, 10)), 2, 10)
    assert attack.evaluated == tuple(range(0, 301, 10))
    assert SecMI(timesteps=(40, 20), step=20).evaluated == (0, 20, 40, 60)


def test_the_denoiser_is_asked_where_it_says() -> None:
    calls: list[int] = []
    attack = SecMI(timesteps=(20, 50))
    attack.vectors(Case("linear", "epsilon").evaluations(latents(), calls=calls))
    assert tuple(calls) == attack.evaluated == (0, 10, 20, 30, 40, 50, 60)


@pytest.mark.parametrize(
    ("timesteps", "step", "message"),
    [
        ((0, 15), 10, r"timesteps: 15 is not among 0, 10, 20, \.\.\."),
        ((-10, 0), 10, "timesteps: -10 is not among"),
        ((0, 0), 10, "timesteps: 0 is given twice"),
        ((0,), 0, "step: 0 is not positive"),
    ],
)
def test_what_the_inversion_does_not_reach_is_refused(timesteps: tuple[int, ...], step: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SecMI(timesteps=timesteps, step=step)
