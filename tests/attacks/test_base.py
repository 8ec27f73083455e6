"""Shared denoiser evaluations and draws."""

import pytest
import torch
from torch import Tensor

from ldm_scale.attacks.base import Evaluations
from ldm_scale.attacks.sima import SimA

ABAR = torch.linspace(0.9999, 0.0001, 10, dtype=torch.float64)


def no_draw(purpose: str) -> Tensor:
    raise AssertionError(purpose)


def test_each_input_and_timestep_is_evaluated_once() -> None:
    calls: list[int] = []

    def denoise(x: Tensor, t: int) -> Tensor:
        calls.append(t)
        return x + t

    z = torch.zeros(2, 1, 2, 2)
    evaluations = Evaluations(z, ABAR, denoise, no_draw)
    first = evaluations.noise_at("z", z, 3)
    assert evaluations.noise_at("z", z, 3) is first
    assert evaluations.noise_at("other", z + 1, 3).unique().item() == 4
    assert evaluations.noise_at("z", z, 4).unique().item() == 4
    assert calls == [3, 3, 4]
    evaluations.denoise(z, 3)
    assert calls == [3, 3, 4, 3]
    assert evaluations.made == 4 * 2


def test_a_draw_is_made_once_and_named_after_its_timestep() -> None:
    drawn: list[str] = []

    def draw(purpose: str) -> Tensor:
        drawn.append(purpose)
        return torch.full((2, 1, 2, 2), float(len(drawn)))

    z = torch.full((2, 1, 2, 2), 5.0)
    evaluations = Evaluations(z, ABAR, lambda x, t: 2 * x, draw)
    e, noise = evaluations.diffused(3)
    again = evaluations.diffused(3)
    assert (again[0] is e, again[1] is noise) == (True, True)
    assert evaluations.diffused(4)[0].unique().item() == 2
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
    found = SimA(timesteps=(7, 2)).vectors(Evaluations(z, ABAR, lambda x, t: x + t, no_draw))
    assert found.flatten(1).mean(1).tolist() == [7, 2]
