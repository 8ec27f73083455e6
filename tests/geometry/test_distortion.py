"""Distortion: closed forms, and the sum of log singular values of a full Jacobian."""

import math

import torch

from ldm_scale.geometry.distortion import exact_distortion
from ldm_scale.geometry.pullback import metric
from tests.geometry.test_pullback import DECODERS, LinearDecoder, jacobians, latents


def test_distortion_of_a_scaling_is_its_log_volume() -> None:
    scales = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    found = exact_distortion(torch.diag(scales**2)[None])
    assert found.item() == torch.tensor(math.log(0.5 * 2 * 3)).item()


def test_distortion_of_a_linear_decoder_is_its_log_determinant() -> None:
    decoder = LinearDecoder()
    expected = 0.5 * torch.logdet(decoder.matrix.double().T @ decoder.matrix.double())
    found = exact_distortion(metric(decoder, latents(), 2**30))
    torch.testing.assert_close(found, expected.float().expand(3), rtol=1e-5, atol=1e-5)


def test_distortion_is_the_sum_of_log_singular_values() -> None:
    for name, decoder in DECODERS.items():
        z = latents()
        expected = torch.stack([torch.linalg.svdvals(jacobian).log().sum() for jacobian in jacobians(decoder, z)])
        found = exact_distortion(metric(decoder, z, 2**30))
        torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_a_collapsed_direction_is_not_finite() -> None:
    assert not exact_distortion(torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))[None]).isfinite().any()
