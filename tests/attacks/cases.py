"""What the attacks are tried on: schedules written out in float64, small networks, and keyed draws."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm_scale.attacks.base import Attack, Evaluations
from ldm_scale.device.draws import keyed_normal
from ldm_scale.targets.base import to_noise

SHAPE = (2, 4, 6)  # no two sides alike
KEYS = ("a", "b", "c", "d", "e")
BETAS = {
    "linear": np.linspace(1e-4, 0.02, 1000),
    "scaled-linear": np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2,
}


def network(x: Tensor, t: int) -> Tensor:
    """A smooth function of (n, c, h, w) that mixes channels and neighbours; in x's precision."""
    weights = torch.sin(torch.arange(36, dtype=torch.float64) * 1.7).reshape(2, 2, 3, 3).to(x.dtype)
    mixed = torch.nn.functional.conv2d(x, weights, padding=1)
    return torch.tanh(mixed * (0.3 + t / 1000)) + 0.5 * torch.sin(x + t / 100)


@dataclass(frozen=True)
class Case:
    """A schedule and what the network predicts."""

    schedule: str
    prediction: str

    @property
    def abar(self) -> list[float]:
        return [float(value) for value in np.cumprod(1 - BETAS[self.schedule])]

    def evaluations(self, z: Tensor, keys: Sequence[str] = KEYS, calls: list[int] | None = None) -> Evaluations:
        """What an attack is given of this case; the timestep of every evaluation is appended to `calls`."""
        abar = self.abar

        def denoise(x: Tensor, timesteps: Sequence[int]) -> Tensor:
            if calls is not None:
                calls.extend(timesteps)
            noises = [
                to_noise(network(some, t), some, torch.full((len(some),), abar[t]).double(), self.prediction)
                for some, t in zip(x, timesteps, strict=True)
            ]
            return torch.stack(noises)

        return Evaluations(z, torch.tensor(abar, dtype=torch.float64), denoise, lambda what: draws(what, keys))

    def noise(self, x: Tensor, t: int) -> Tensor:
        """eps(x, t) of one sample, (c, h, w) float64, written out."""
        output = network(x[None], t)[0]
        if self.prediction == "epsilon":
            return output
        return self.abar[t] ** 0.5 * output + (1 - self.abar[t]) ** 0.5 * x


CASES = [
    pytest.param(Case(schedule, prediction), id=f"{schedule} {prediction}")
    for schedule in BETAS
    for prediction in ("epsilon", "v_prediction")
]


def draws(purpose: str, keys: Sequence[str] = KEYS) -> Tensor:
    return keyed_normal(0, keys, purpose, SHAPE, torch.device("cpu"))


def latents() -> Tensor:
    return 0.8 * draws("latents")


def assert_parity(attack: Attack, case: Case, expected: list[list[Tensor]]) -> None:
    """The attack in single precision is within 1e-4 (of each vector's length) of expected[step][sample], float64."""
    found = attack.vectors(case.evaluations(latents()))
    assert found.shape == (len(attack.timesteps), len(KEYS), *SHAPE)
    for step in range(len(attack.timesteps)):
        for n in range(len(KEYS)):
            error = (found[step, n].double() - expected[step][n]).norm() / expected[step][n].norm()
            assert error < 1e-4, f"t = {attack.timesteps[step]}, sample {n}: {error:.1e}"
