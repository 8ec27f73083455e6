"""Conversion of a network's output to noise."""

import pytest
import torch

from ldm_scale.targets.base import to_noise


@pytest.mark.parametrize("abar", [0.9999, 0.5, 0.01])
def test_v_prediction_gives_back_the_noise_that_made_it(abar: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 3, 4, 4, 4, generator=generator)
    z = abar**0.5 * x0 + (1 - abar) ** 0.5 * eps
    v = abar**0.5 * eps - (1 - abar) ** 0.5 * x0
    torch.testing.assert_close(to_noise(v, z, abar, "v_prediction"), eps, rtol=1e-4, atol=1e-5)


def test_epsilon_is_the_output() -> None:
    output = torch.ones(1, 1, 2, 2)
    assert to_noise(output, output * 3, 0.5, "epsilon") is output


def test_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="sample"):
        to_noise(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), 0.5, "sample")
