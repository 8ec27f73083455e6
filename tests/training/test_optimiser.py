"""The optimiser's step against a plain loop, its average against a hand-written one, and its resumption."""

import math

import pytest
import torch
from torch import nn

from ldm_scale.training.conditions import Batch
from ldm_scale.training.optimiser import Optimiser
from tests.training.cases import batch

STEPS, RATE = 12, 0.05


class Fit(nn.Module):
    """Mean squared distance of a weight to the mean colour of the images, far enough away to be clipped."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([5.0, -3.0, 1.0]))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, some: Batch) -> torch.Tensor:
        return ((self.weight * self.frozen - some.images.mean((2, 3))) ** 2).mean()


def run(network: Fit, first: int, last: int, optimiser: Optimiser) -> list[torch.Tensor]:
    weights = []
    for _ in range(first, last):
        optimiser.step(batch())
        weights.append(network.weight.detach().clone())
    return weights


def test_a_step_is_clipped_adamw_with_a_cosine_decay() -> None:
    network, plain = Fit(), Fit()
    found = run(network, 0, STEPS, Optimiser(network, network, STEPS, RATE))
    moments, squares = torch.zeros(3), torch.zeros(3)
    for step in range(STEPS):
        plain.zero_grad()
        plain(batch()).backward()
        gradient = plain.weight.grad / max(1.0, plain.weight.grad.norm().item() + 1e-6)
        moments, squares = 0.9 * moments + 0.1 * gradient, 0.999 * squares + 0.001 * gradient**2
        rate = RATE * (1 + math.cos(math.pi * step / STEPS)) / 2
        corrected = moments / (1 - 0.9 ** (step + 1)), squares / (1 - 0.999 ** (step + 1))
        with torch.no_grad():
            plain.weight -= rate * corrected[0] / (corrected[1].sqrt() + 1e-8)
        torch.testing.assert_close(found[step], plain.weight.detach())
    torch.testing.assert_close(network.frozen.detach(), torch.ones(3), rtol=0, atol=0)


def test_the_average_is_the_hand_written_one() -> None:
    network = Fit()
    optimiser = Optimiser(network, network, STEPS, RATE, ema=0.5)
    weights = run(network, 0, STEPS, optimiser)
    average = weights[0]
    for step, weight in enumerate(weights[1:], start=2):
        decay = min(0.5, step / (9 + step))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(network.weight.detach(), weights[-1])
    optimiser.finish()
    torch.testing.assert_close(network.weight.detach(), average)
    assert not torch.allclose(average, weights[-1], atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_optimiser_goes_on_as_if_it_had_not_stopped(precision: str) -> None:
    whole = Fit()
    optimiser = Optimiser(whole, whole, STEPS, RATE, precision, ema=0.9)
    run(whole, 0, STEPS, optimiser)
    optimiser.finish()

    first, second = Fit(), Fit()
    stopped = Optimiser(first, first, STEPS, RATE, precision, ema=0.9)
    run(first, 0, 5, stopped)
    resumed = Optimiser(second, second, STEPS, RATE, precision, ema=0.9)
    resumed.load_state_dict(stopped.state_dict())
    run(second, 5, STEPS, resumed)
    resumed.finish()
    torch.testing.assert_close(second.weight, whole.weight, rtol=0, atol=0)
