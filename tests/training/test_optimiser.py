"""The optimiser's step against a plain loop, its average against a hand-written one, and its resumption."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from ldm_scale.config.train import StageConfig
from ldm_scale.training.conditions import Batch
from ldm_scale.training.optimiser import Optimiser
from tests.training.cases import batch

STEPS, RATE = 12, 0.05
PLAIN = StageConfig(rate=RATE)


class Fit(nn.Module):
    """Mean squared distance of a weight to the mean colour of the images, far enough away to be clipped."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([5.0, -3.0, 1.0]))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, some: Batch) -> torch.Tensor:
        return ((self.weight * self.frozen - some.inputs.mean((2, 3))) ** 2).mean()


def run(network: Fit, first: int, last: int, optimiser: Optimiser) -> list[torch.Tensor]:
    weights = []
    for _ in range(first, last):
        optimiser.step([batch()])
        weights.append(network.weight.detach().clone())
    return weights


@pytest.mark.parametrize("decay", ["cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize("weight_decay", [0, 0.1])
@pytest.mark.parametrize("clip", [0, 1, 3])
def test_a_step_is_adamw(decay: str, warmup: int, weight_decay: float, clip: float) -> None:
    """With the rate of each step, decoupled weight decay (Loshchilov & Hutter 2019) and gradients cut to a norm."""
    network, plain = Fit(), Fit()
    config = StageConfig(rate=RATE, decay=decay, warmup=warmup, weight_decay=weight_decay, clip=clip)
    found = run(network, 0, STEPS, Optimiser(network, network, STEPS, config))
    moments, squares = torch.zeros(3), torch.zeros(3)
    for step in range(STEPS):
        plain.zero_grad()
        plain(batch()).backward()
        gradient = plain.weight.grad
        if clip:
            gradient = gradient * min(1.0, clip / (gradient.norm().item() + 1e-6))
        moments, squares = 0.9 * moments + 0.1 * gradient, 0.999 * squares + 0.001 * gradient**2
        falling = (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup))) / 2 if decay == "cosine" else 1
        rate = RATE * (step / warmup if step < warmup else falling)
        corrected = moments / (1 - 0.9 ** (step + 1)), squares / (1 - 0.999 ** (step + 1))
        with torch.no_grad():
            plain.weight *= 1 - rate * weight_decay
            plain.weight -= rate * corrected[0] / (corrected[1].sqrt() + 1e-8)
        torch.testing.assert_close(found[step], plain.weight.detach())
    torch.testing.assert_close(network.frozen.detach(), torch.ones(3), rtol=0, atol=0)


def test_a_batch_in_parts_is_the_batch() -> None:
    """Of the same size, as their losses are means."""
    whole, parts = Fit(), Fit()
    optimisers = [Optimiser(network, network, STEPS, PLAIN) for network in (whole, parts)]
    some = batch(6)
    split = [replace(some, inputs=inputs) for inputs in some.inputs.split(2)]
    for _ in range(STEPS):
        losses = optimisers[0].step([some]), optimisers[1].step(split)
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(parts.weight.grad, whole.weight.grad)
        torch.testing.assert_close(parts.weight, whole.weight)


def test_the_average_is_the_hand_written_one() -> None:
    network = Fit()
    optimiser = Optimiser(network, network, STEPS, PLAIN, ema=0.5)
    weights = run(network, 0, STEPS, optimiser)
    average = weights[0]
    for step, weight in enumerate(weights[1:], start=2):
        decay = min(0.5, step / (9 + step))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(network.weight.detach(), weights[-1])
    copied = copy.deepcopy(network)
    optimiser.average_into(copied)
    torch.testing.assert_close(copied.weight.detach(), average)
    torch.testing.assert_close(network.weight.detach(), weights[-1])
    optimiser.average_into(network)
    torch.testing.assert_close(network.weight.detach(), average)
    assert not torch.allclose(average, weights[-1], atol=1e-3)


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_optimiser_goes_on_as_if_it_had_not_stopped(precision: str, older: bool) -> None:
    whole = Fit()
    optimiser = Optimiser(whole, whole, STEPS, PLAIN, precision, ema=0.9)
    run(whole, 0, STEPS, optimiser)
    optimiser.average_into(whole)

    first, second = Fit(), Fit()
    stopped = Optimiser(first, first, STEPS, PLAIN, precision, ema=0.9)
    run(first, 0, 5, stopped)
    resumed = Optimiser(second, second, STEPS, PLAIN, precision, ema=0.9)
    state = stopped.state_dict()
    if older:
        # The rate was another class's, with the same state but its functions.
        del state["decay"]["lr_lambdas"]
    resumed.load_state_dict(state)
    run(second, 5, STEPS, resumed)
    resumed.average_into(second)
    torch.testing.assert_close(second.weight, whole.weight, rtol=0, atol=0)
