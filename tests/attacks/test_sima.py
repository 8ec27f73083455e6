"""SimA against its definition, one sample and one timestep at a time."""

import torch
from torch import Tensor

from ldm_scale.attacks.base import Evaluations
from ldm_scale.attacks.sima import SimA


def denoise(x: Tensor, t: int) -> Tensor:
    return torch.sin(x * (t + 1)) + 0.1 * t


def test_vectors_are_the_prediction_on_the_clean_latent() -> None:
    z = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    attack = SimA(timesteps=(0, 7, 190))
    found = attack.vectors(Evaluations(z, torch.linspace(1, 0, 1000), denoise))
    assert found.shape == (3, 3, 2, 4, 4)
    for i, t in enumerate(attack.timesteps):
        for n in range(3):
            torch.testing.assert_close(found[i, n], denoise(z[n], t))


def test_defaults_are_the_papers() -> None:
    assert SimA().timesteps == tuple(range(0, 300, 10))
    assert SimA().p == 4
