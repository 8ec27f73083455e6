"""Shared denoiser evaluations."""

import torch
from torch import Tensor

from ldm_scale.attacks.base import Evaluations


def test_each_input_and_timestep_is_evaluated_once() -> None:
    calls: list[int] = []

    def denoise(x: Tensor, t: int) -> Tensor:
        calls.append(t)
        return x + t

    z = torch.zeros(2, 1, 2, 2)
    evaluations = Evaluations(z, torch.linspace(1, 0, 10), denoise)
    first = evaluations.noise_at("z", z, 3)
    assert evaluations.noise_at("z", z, 3) is first
    assert evaluations.noise_at("other", z + 1, 3).unique().item() == 4
    assert evaluations.noise_at("z", z, 4).unique().item() == 4
    assert calls == [3, 3, 4]
