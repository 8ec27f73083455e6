"""Shared denoiser evaluations and draws."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ldm_scale.attacks.base import Evaluations
from ldm_scale.attacks.sima import SimA

ABAR = torch.linspace(0.9999, 0.0001, 10, dtype=torch.float64)


def plus(x: Tensor, timesteps: Sequence[int]) -> Tensor:
    """eps(x, t) = x + t."""
    return x + torch.tensor(timesteps).reshape(-1, 1, 1, 1, 1)


def no_draw(purpose: str) -> Tensor:
    raise AssertionError(purpose)


def test_each_input_and_timestep_is_evaluated_once() -> None:
    calls: list[tuple[int, ...]] = []

    def denoise(x: Tensor, timesteps: Sequence[int]) -> Tensor:
        calls.append(tuple(timesteps))
        return plus(x, timesteps)

    z = torch.zeros(2, 1, 2, 2)
    evaluations = Evaluations(z, ABAR, denoise, no_draw)
    first = evaluations.noise_at("z", z, 3)
    assert evaluations.noise_at("z", z, 3) is first
    assert evaluations.noise_at("other", z + 1, 3).unique().item() == 4
    assert evaluations.noise_at("z", z, 4).unique().item() == 4
    assert calls == [(3,), (3,), (4,)]
    evaluations.denoise_each(z[None], (3,))
    assert calls == [(3,), (3,), (4,), (3,)]
    assert evaluations.made == 4 * 2


def test_many_timesteps_are_one_batch_of_those_not_known_yet() -> None:
    calls: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def denoise(x: Tensor, timesteps: Sequence[int]) -> Tensor:
        calls.append((tuple(x.shape), tuple(timesteps)))
        return plus(x, timesteps)

    z = torch.zeros(2, 1, 2, 2)
    evaluations = Evaluations(z, ABAR, denoise, no_draw)
    known = evaluations.noise_at("z", z, 4)
    found = evaluations.noises_at("z", {t: z + t / 10 for t in (7, 4, 2)})
    assert found[4] is known
    assert [(t, round(noise.unique().item(), 4)) for t, noise in found.items()] == [(7, 7.7), (4, 4), (2, 2.2)]
    assert evaluations.noises_at("z", dict.fromkeys((2, 7), z))[7] is found[7]
    assert evaluations.noises_at("z", {}) == {}
    assert calls == [((1, 2, 1, 2, 2), (4,)), ((2, 2, 1, 2, 2), (7, 2))]
    assert evaluations.made == 3 * 2
    evaluations.denoise_each(torch.stack([z, z, z]), (1, 1, 2))
    assert evaluations.made == 6 * 2


def test_what_is_known_of_drawn_noise_is_not_asked_again() -> None:
    calls: list[tuple[int, ...]] = []

    def denoise(x: Tensor, timesteps: Sequence[int]) -> Tensor:
        calls.append(tuple(timesteps))
        return plus(x, timesteps)

    z = torch.zeros(2, 1, 2, 2)
    evaluations = Evaluations(z, ABAR, denoise, lambda purpose: torch.full_like(z, int(purpose.split()[1])))
    e, noise = evaluations.diffused_at((5,))[5]
    found = evaluations.diffused_at((8, 5, 3))
    assert list(found) == [8, 5, 3]
    assert (found[5][0] is e, found[5][1] is noise) == (True, True)
    for t, (drawn, predicted) in found.items():
        torch.testing.assert_close(predicted, evaluations.diffuse(z, drawn, t) + t)
    assert calls == [(5,), (8, 3)]


def test_a_draw_is_made_once_and_named_after_its_timestep() -> None:
    drawn: list[str] = []

    def draw(purpose: str) -> Tensor:
        drawn.append(purpose)
        return torch.full((2, 1, 2, 2), float(len(drawn)))

    z = torch.full((2, 1, 2, 2), 5.0)
    evaluations = Evaluations(z, ABAR, lambda x, t: 2 * x, draw)
    e, noise = evaluations.diffused_at((3,))[3]
    again = evaluations.diffused_at((3,))[3]
    assert (again[0] is e, again[1] is noise) == (True, True)
    assert evaluations.diffused_at((4,))[4][0].unique().item() == 2
    assert drawn == ["noise 3", "noise 4"]
    abar = ABAR[3].item()
    torch.testing.assert_close(noise, torch.full_like(z, 2 * (abar**0.5 * 5 + (1 - abar) ** 0.5)))


def test_a_double_schedule_keeps_its_precision() -> None:
    """1 - abar of 1e-8 would be 0 in single precision."""
    evaluations = Evaluations(torch.zeros(1, 1, 1, 1), 1 - ABAR * 1e-8, lambda x, t: x, no_draw)
    noisy = evaluations.diffuse(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), 0)
    assert noisy.item() == pytest.approx(0.9999e-8**0.5, rel=1e-6)


def test_a_timestep_given_twice_is_refused_and_the_order_given_is_kept() -> None:
    with pytest.raises(ValueError, match="timesteps: 10 is given twice"):
        SimA(timesteps=(0, 10, 20, 10))
    z = torch.zeros(1, 1, 2, 2)
    found = SimA(timesteps=(7, 2)).vectors(Evaluations(z, ABAR, plus, no_draw))
    assert found.flatten(1).mean(1).tolist() == [7, 2]
