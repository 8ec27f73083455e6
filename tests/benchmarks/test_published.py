"""The published procedure: its estimators against exact ones; test_audit.py has the whole of it."""

import numpy as np
import pytest
import torch

from ldm_scale.attacks.secmi import SecMI
from ldm_scale.benchmarks import published
from tests.geometry.decoders import LinearDecoder


def matrix_of(values: np.ndarray) -> np.ndarray:
    """A matrix from 64 dimensions to 3 x 8 x 8 values, of these singular values; float64."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((rows, 64)))[0] for rows in (192, 64))
    return left * values @ right.T


def linear(matrix: np.ndarray) -> LinearDecoder:
    return LinearDecoder(torch.from_numpy(matrix).float(), (3, 8, 8))


def test_its_distortion_is_the_sum_of_the_largest_singular_values_logarithms() -> None:
    """Of a decaying spectrum, by numpy's SVD of the whole Jacobian."""
    matrix = matrix_of(3 * 0.8 ** np.arange(64))
    tangents = torch.randn(50, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    found = published.distortion(linear(matrix), torch.zeros(1, 4, 4, 4), tangents)
    expected = np.log(np.linalg.svd(matrix, compute_uv=False)[:20]).sum()
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_its_influence_converges_to_that_of_the_jacobian_without_bias() -> None:
    """4,000 probes deviate by 1%; the mean over 500 times 8 probes, each of which deviates by 26%, by as little."""
    matrix = matrix_of(np.linspace(0.5, 2, 64))
    expected = np.log(np.linalg.norm(matrix, axis=0))
    probes = torch.randn(4000, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    z = torch.zeros(1, 4, 4, 4)
    many = published.influence(linear(matrix), z, probes)
    np.testing.assert_allclose(many.numpy(), expected, rtol=0, atol=0.06)
    few = torch.stack([published.influence(linear(matrix), z, some) for some in probes.split(8)])
    np.testing.assert_allclose(few.mean(0).numpy(), expected, rtol=0, atol=0.06)
    assert abs(few.mean().item() - expected.mean()) < 0.01


def test_a_step_there_and_back_is_secmis_vector() -> None:
    """With a denoiser that knows t alone, y_t - x_t = k_t (eps_{t+s} - eps_t), by SecMI's own formula."""
    abar = torch.linspace(0.999, 0.2, 400).tolist()
    z = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    vectors = list(published.secmi(lambda x, t: torch.full_like(x, t / 100), z, abar, torch.empty(0)))
    ratios = [((1 - a) / a) ** 0.5 for a in abar]
    assert len(vectors) == len(published.TIMESTEPS)
    for t, vector in zip(published.TIMESTEPS, vectors, strict=True):
        expected = abar[t] ** 0.5 * (ratios[t] - ratios[t + SecMI().step]) * 0.1
        np.testing.assert_allclose(vector.numpy(), expected, rtol=1e-6, atol=1e-12)


def test_the_lowest_two_fifths_are_dropped() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0, 5.0, 4.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    assert published.kept(scores).tolist() == [[1, 0, 0, 1, 1], [0, 0, 1, 1, 1]]
