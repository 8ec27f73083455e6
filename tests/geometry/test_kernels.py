"""The kernels that stand in for a decoder's own: the same numbers, first and second derivatives."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import group_norm

from ldm_scale.geometry.kernels import Normalisation, in_bfloat16, linear_kernels, normalised_groups
from ldm_scale.geometry.pullback import TracedDecoder, pullback_metric
from tests.geometry.decoders import DECODERS, latents, normal

CASES = {
    "affine": (normal(4, seed=1), normal(4, seed=2)),
    "no bias": (normal(4, seed=1), None),
    "plain": (None, None),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_groups_are_normalised_as_torch_normalises_them(case: str, layout: torch.memory_format) -> None:
    weight, bias = CASES[case]
    x = normal(3, 4, 5, 6).contiguous(memory_format=layout)
    expected = group_norm(x, 2, weight, bias, eps=1e-3)
    torch.testing.assert_close(normalised_groups(x, 2, weight, bias, eps=1e-3), expected, rtol=1e-5, atol=1e-6)


def test_first_and_second_derivatives_are_those_of_differences() -> None:
    x = normal(2, 4, 3).double().requires_grad_()

    def normalise(x: Tensor) -> Tensor:
        return Normalisation.apply(x, 2, 1e-3)[0]

    assert torch.autograd.gradcheck(normalise, x)

    def product(vector: Tensor) -> Tensor:
        """J^T v, in which v alone varies: all that products with J ask of second derivatives."""
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(normalise(leaf), leaf, vector, create_graph=True)[0]

    assert torch.autograd.gradcheck(product, normal(2, 4, 3, seed=8).double().requires_grad_())


def test_vectors_can_be_batched() -> None:
    x, vectors = normal(2, 4, 3), normal(5, 2, 4, 3, seed=8)
    _, pull = torch.func.vjp(lambda x: Normalisation.apply(x, 2, 1e-3)[0], x)
    together = torch.func.vmap(lambda v: pull(v)[0])(vectors)
    torch.testing.assert_close(together, torch.stack([pull(v)[0] for v in vectors]))


@pytest.mark.parametrize("name", DECODERS)
def test_the_kernels_change_no_image(name: str) -> None:
    decoder = DECODERS[name]
    z = latents()
    with linear_kernels():
        found = decoder(z)
    torch.testing.assert_close(found, decoder(z))


@pytest.mark.parametrize("name", ["conv", "attention", "AutoencoderKL"])
def test_products_in_bfloat16_are_near_those_in_float32(name: str) -> None:
    """Rounded to eight bits in every layer, and no more: normalisation and attention are float32."""
    decoder, z = DECODERS[name], latents()
    exact = pullback_metric(decoder, z, 2**30)
    rounded = pullback_metric(TracedDecoder(in_bfloat16(decoder.decode)), z, 2**30)
    errors = (rounded - exact).norm(dim=(1, 2)) / exact.norm(dim=(1, 2))
    assert (errors > 1e-4).all()
    assert (errors < 0.1).all()
