"""Conversion of a network's output to noise."""

import pytest
import torch

from ldm_scale.targets.base import condition_of, to_noise

HALF = torch.tensor([0.5])


def test_v_prediction_gives_back_the_noise_that_made_it() -> None:
    """Each row at a timestep of its own."""
    abar = torch.tensor([0.9999, 0.5, 0.01], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 3, 4, 4, 4, generator=generator)
    signal, noise = (factor.sqrt().float()[:, None, None, None] for factor in (abar, 1 - abar))
    z, v = signal * x0 + noise * eps, signal * eps - noise * x0
    torch.testing.assert_close(to_noise(v, z, abar, "v_prediction"), eps, rtol=1e-4, atol=1e-5)


def test_of_an_exact_schedule_little_noise_keeps_its_precision() -> None:
    """1 - abar of 1e-10 would be 0 in single precision."""
    z = torch.full((1, 1, 1, 1), 7.0)
    abar = torch.tensor([1 - 1e-10], dtype=torch.float64)
    assert to_noise(torch.zeros_like(z), z, abar, "v_prediction").item() == pytest.approx(7e-5, rel=1e-5)


def test_rows_have_the_condition_of_their_sample() -> None:
    rows = torch.tensor([2, 0, 2])
    classes, texts = torch.tensor([5, 6, 7]), torch.arange(12.0).reshape(3, 2, 2)
    assert condition_of(None, rows) is None
    assert condition_of(classes, rows).tolist() == [7, 5, 7]
    found = condition_of((texts, classes), rows)
    assert isinstance(found, tuple)
    assert torch.equal(found[0], torch.stack([texts[2], texts[0], texts[2]]))
    assert found[1].tolist() == [7, 5, 7]


def test_epsilon_is_the_output() -> None:
    output = torch.ones(1, 1, 2, 2)
    assert to_noise(output, output * 3, HALF, "epsilon") is output


def test_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="sample"):
        to_noise(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), HALF, "sample")
