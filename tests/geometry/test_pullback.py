"""Jacobian products and the metric against closed forms and a full Jacobian."""

import pytest
import torch
from torch import Tensor, nn

from ldm_scale.geometry.pullback import metric, product_bytes, products_at_once, pullback, pushforward

SHAPE = (2, 2, 2)


class LinearDecoder(nn.Module):
    """x = A z + b as an image (3, 4, 4): J is A, and G is A^T A, whatever z."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(48, 8, generator=generator)

    def forward(self, z: Tensor) -> Tensor:
        return (z.flatten(1) @ self.matrix.T + 0.3).reshape(-1, 3, 4, 4)


def conv_decoder() -> nn.Module:
    """A nonlinear decoder with GroupNorm and upsampling, (2, 2, 2) to (3, 4, 4)."""
    torch.manual_seed(1)
    layers = [
        nn.Conv2d(2, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(8, 3, 3, padding=1),
    ]
    return nn.Sequential(*layers).eval().requires_grad_(False)


class AttentionDecoder(nn.Module):
    """One head of fused attention over the pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.qkv = nn.Linear(2, 12)
        self.out = nn.Linear(4, 12)
        self.requires_grad_(False)

    def forward(self, z: Tensor) -> Tensor:
        q, k, v = self.qkv(z.flatten(2).transpose(1, 2)).chunk(3, dim=-1)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed).transpose(1, 2).reshape(-1, 3, 4, 4)


DECODERS = {"linear": LinearDecoder(), "conv": conv_decoder(), "attention": AttentionDecoder()}


def latents(n: int = 3) -> Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(7))


def full_jacobian(decode: nn.Module, z: Tensor) -> Tensor:
    """J of one sample in float64, (M, D), by torch's reverse-mode reference."""
    double = z.double()
    jacobian = torch.autograd.functional.jacobian(lambda x: decode(x[None])[0], double)
    return jacobian.reshape(-1, z.numel())


@pytest.fixture(params=sorted(DECODERS))
def decoder(request: pytest.FixtureRequest) -> nn.Module:
    return DECODERS[request.param]


def jacobians(decode: nn.Module, z: Tensor) -> list[Tensor]:
    import copy

    double = copy.deepcopy(decode).double()
    if isinstance(double, LinearDecoder):
        double.matrix = double.matrix.double()
    return [full_jacobian(double, sample) for sample in z]


def test_pushforward_is_jacobian_times_tangent(decoder: nn.Module) -> None:
    z, tangents = latents(), torch.randn(5, 3, *SHAPE, generator=torch.Generator().manual_seed(3))
    pushed = pushforward(decoder, z, tangents)
    for n, jacobian in enumerate(jacobians(decoder, z)):
        for k in range(5):
            expected = (jacobian @ tangents[k, n].flatten().double()).reshape(3, 4, 4)
            torch.testing.assert_close(pushed[k, n].double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 2, 5, 100])
def test_pullback_is_transposed_jacobian_times_cotangent(decoder: nn.Module, at_once: int) -> None:
    z, cotangents = latents(), torch.randn(5, 3, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    pulled = pullback(decoder, z, cotangents, at_once)
    for n, jacobian in enumerate(jacobians(decoder, z)):
        for k in range(5):
            expected = (jacobian.T @ cotangents[k, n].flatten().double()).reshape(SHAPE)
            torch.testing.assert_close(pulled[k, n].double(), expected, rtol=1e-4, atol=1e-5)


def test_metric_of_a_linear_decoder_is_its_gram_matrix() -> None:
    decoder = LinearDecoder()
    expected = decoder.matrix.double().T @ decoder.matrix.double()
    for found in metric(decoder, latents(), memory=2**30):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_metric_is_gram_of_the_full_jacobian(decoder: nn.Module) -> None:
    z = latents()
    for found, jacobian in zip(metric(decoder, z, memory=2**30), jacobians(decoder, z), strict=True):
        torch.testing.assert_close(found, jacobian.T @ jacobian, rtol=1e-4, atol=1e-5)


def test_a_smaller_memory_budget_changes_nothing(decoder: nn.Module) -> None:
    z = latents()
    one_product = product_bytes(decoder, z[:1])
    assert products_at_once(decoder, z, 3 * one_product) == 3
    assert products_at_once(decoder, z, 1) == 1
    whole = metric(decoder, z, memory=2**30)
    torch.testing.assert_close(metric(decoder, z, memory=3 * one_product), whole, rtol=1e-5, atol=1e-6)


def test_product_bytes_counts_what_the_backward_pass_holds() -> None:
    """A product of activations holds both factors: two tensors of 8 floats, and the image of 48."""

    def decode(z: Tensor) -> Tensor:
        return (z * z.sin()).sum().expand(1, 3, 4, 4).contiguous()

    # sin saves its input; the product saves both factors, z and sin z.
    assert product_bytes(decode, latents(1)) == (3 * 8 + 48) * 4


def test_gradients_of_parameters_are_not_touched() -> None:
    decoder = conv_decoder().requires_grad_(True)
    pullback(decoder, latents(), torch.ones(2, 3, 3, 4, 4), 2)
    assert all(parameter.grad is None for parameter in decoder.parameters())
