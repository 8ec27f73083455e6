"""Distortion: closed forms, and the sum of log singular values of a full Jacobian."""

import math

import pytest
import torch

from ldm_scale.geometry.distortion import exact_distortion
from ldm_scale.geometry.pullback import pullback_metric
from tests.geometry.decoders import DECODERS, SIMPLE, jacobians, latents, linear_decoder


def test_distortion_of_a_scaling_is_its_log_volume() -> None:
    scales = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    found = exact_distortion(torch.diag(scales**2)[None])
    assert found.item() == torch.tensor(math.log(0.5 * 2 * 3)).item()


def test_distortion_of_a_linear_decoder_is_its_log_determinant() -> None:
    decoder = linear_decoder()
    expected = 0.5 * torch.logdet(decoder.matrix.double().T @ decoder.matrix.double())
    found = exact_distortion(pullback_metric(decoder, latents(), 2**30))
    torch.testing.assert_close(found, expected.float().expand(3), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SIMPLE)
def test_distortion_is_the_sum_of_log_singular_values(name: str) -> None:
    decoder, z = DECODERS[name], latents()
    expected = torch.linalg.svdvals(jacobians(decoder, z)).log().sum(1)
    torch.testing.assert_close(
        exact_distortion(pullback_metric(decoder, z, 2**30)), expected.float(), rtol=0, atol=1e-3
    )


def test_a_collapsed_direction_is_not_finite() -> None:
    assert not exact_distortion(torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))[None]).isfinite().any()
