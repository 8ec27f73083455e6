"""Jacobian products and the metric against closed forms and a full Jacobian, on every kind of decoder."""

import pytest
import torch
from torch import Tensor, nn

from ldm_scale.errors import RunError
from ldm_scale.geometry.pullback import Jacobian, TracedDecoder, chunk_sizes, in_chunks, product_bytes, pullback_metric
from tests.geometry.decoders import (
    DECODERS,
    IMAGE,
    SHAPE,
    SIMPLE,
    conv_decoder,
    jacobians,
    latents,
    linear_decoder,
    normal,
)


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> TracedDecoder:
    return DECODERS[request.param]


def with_each(first: int, *others: int) -> list[tuple[str, int]]:
    """Every decoder with the first number, one of them with the others."""
    return [(name, first) for name in DECODERS] + [("AutoencoderKL", other) for other in others]


def assert_near(found: Tensor, expected: Tensor, share: float = 1e-5) -> None:
    """Equal up to this share of the largest entry: what float32 leaves of a sum of unlike terms."""
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=share * expected.abs().max().item())


@pytest.mark.parametrize(("name", "at_once"), with_each(2, 1, 5, 100))
def test_push_is_jacobian_times_tangent(name: str, at_once: int) -> None:
    decoder = DECODERS[name]
    z, tangents = latents(), normal(5, 3, *SHAPE, seed=3)
    expected = torch.einsum("nmd,knd->knm", jacobians(decoder, z), tangents.flatten(2).double())
    assert_near(Jacobian(decoder, z, at_once).push(tangents).flatten(2), expected)


@pytest.mark.parametrize(("name", "at_once"), with_each(2, 1, 5, 100))
def test_pull_is_transposed_jacobian_times_cotangent(name: str, at_once: int) -> None:
    decoder = DECODERS[name]
    z, cotangents = latents(), normal(5, 3, *IMAGE, seed=3)
    expected = torch.einsum("nmd,knm->knd", jacobians(decoder, z), cotangents.flatten(2).double())
    assert_near(Jacobian(decoder, z, at_once).pull(cotangents).flatten(2), expected)


def test_a_decoder_may_count_the_products_with_it() -> None:
    """One for each sample and vector, however many go at once; what it counts changes nothing."""
    decoder = DECODERS["conv"]
    z, tangents, cotangents = latents(), normal(5, 3, *SHAPE, seed=3), normal(4, 3, *IMAGE, seed=3)
    counted = TracedDecoder(decoder)
    pushed, pulled = Jacobian(counted, z, 2).push(tangents), Jacobian(counted, z, 3).pull(cotangents)
    assert counted.products == 5 * 3 + 4 * 3
    assert torch.equal(pushed, Jacobian(decoder, z, 2).push(tangents))
    assert torch.equal(pulled, Jacobian(decoder, z, 3).pull(cotangents))


def test_products_hold_at_each_latent_whichever_they_were_traced_at(decoder: TracedDecoder) -> None:
    for seed in range(3):
        z, tangents = normal(3, *SHAPE, seed=seed), normal(4, 3, *SHAPE, seed=9)
        expected = torch.einsum("nmd,knd->knm", jacobians(decoder, z), tangents.flatten(2).double())
        assert_near(Jacobian(decoder, z, 4).push(tangents).flatten(2), expected)


def test_a_decoder_is_traced_once_for_latents_of_a_shape_whatever_the_number_of_vectors() -> None:
    calls = []

    def decode(z: Tensor) -> Tensor:
        calls.append(z.shape)
        return DECODERS["conv"](z)

    tracing = TracedDecoder(decode)
    for count in (1, 4, 5):
        z = normal(2, *SHAPE, seed=count)
        Jacobian(tracing, z, 4).push(normal(count, 2, *SHAPE))
    assert calls == [(2, *SHAPE)]


def test_metric_of_a_linear_decoder_is_its_gram_matrix() -> None:
    decoder = linear_decoder()
    expected = decoder.matrix.double().T @ decoder.matrix.double()
    for found in pullback_metric(decoder, latents(), memory=2**30):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_metric_is_gram_of_the_full_jacobian(decoder: TracedDecoder) -> None:
    z = latents()
    full = jacobians(decoder, z)
    assert_near(pullback_metric(decoder, z, memory=2**30), full.mT @ full)


@pytest.mark.parametrize(("name", "products"), [*((name, 3) for name in SIMPLE), ("conv", 1), ("conv", 50)])
def test_the_memory_budget_changes_nothing(name: str, products: int) -> None:
    """One product at a time, a few, or samples together: the same G as one sample at a time."""
    decoder, z = DECODERS[name], latents(5)
    alone = torch.cat([pullback_metric(decoder, sample, 2**30) for sample in z.split(1)])
    assert_near(pullback_metric(decoder, z, memory=products * product_bytes(decoder, z[:1])), alone)


@pytest.mark.parametrize(
    ("held", "expected"),
    [(0, (1, 1)), (1, (1, 1)), (3, (1, 3)), (8, (1, 8)), (17, (2, 8)), (31, (2, 8)), (39, (4, 8)), (999, (4, 8))],
)
def test_chunks_fit_the_budget_and_are_full(held: int, expected: tuple[int, int]) -> None:
    """Eight products of five samples, with memory for `held` products."""
    decoder, z = DECODERS["conv"], latents(5)
    assert chunk_sizes(decoder, z, 8, held * product_bytes(decoder, z[:1])) == expected


def test_chunks_pair_each_sample_with_its_own_vectors() -> None:
    def pair(jacobian: Jacobian, vectors: Tensor) -> Tensor:
        return torch.stack([jacobian.z[:, 0, 0, 0], vectors[0, :, 0]])

    numbers = torch.arange(5.0)
    z, vectors = numbers[:, None, None, None].expand(-1, *SHAPE), numbers[None, :, None]
    pairs = in_chunks(pair, DECODERS["conv"], z, vectors, memory=1)
    assert len(pairs) == 5
    assert torch.equal(torch.cat(pairs, dim=1), numbers.expand(2, -1))


def test_product_bytes_counts_what_the_backward_pass_holds() -> None:
    """A product of activations holds both factors: two tensors of 8 floats, and the image of 48."""

    def decode(z: Tensor) -> Tensor:
        return (z * z.sin()).sum().expand(1, *IMAGE).contiguous()

    # sin saves its input; the product saves both factors, z and sin z.
    assert product_bytes(decode, latents(1)) == (3 * 8 + 48) * 4


def test_product_bytes_measures_the_kernels_that_run() -> None:
    """Plain attention holds its weights, tokens squared, which the fused kernel never makes."""
    z = normal(1, 2, 64, 64)

    def decode(z: Tensor) -> Tensor:
        tokens = z.flatten(2).mT
        mixed = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return mixed.mT.reshape(1, 2, 64, 64)[:, [0, 1, 0]]

    assert product_bytes(decode, z) > 4096**2 * 4


@pytest.mark.parametrize("room", [1, 3, 16])
def test_what_memory_does_not_hold_is_halved_and_remembered(room: int) -> None:
    """Eight products of five samples on a device that holds `room` of them, whatever `memory` says."""
    decoder, asked = TracedDecoder(linear_decoder()), []

    def measure(jacobian: Jacobian, vectors: Tensor) -> Tensor:
        asked.append(len(jacobian.z) * jacobian.at_once)
        if asked[-1] > room:
            raise torch.OutOfMemoryError
        return jacobian.pull(vectors)

    z, vectors = latents(5), normal(8, 5, *IMAGE)
    for _ in range(2):
        found = torch.cat(in_chunks(measure, decoder, z, vectors, 2**30), dim=1)
        torch.testing.assert_close(found.flatten(2), vectors.flatten(2) @ linear_decoder().matrix)
    refused = [rows for rows in asked if rows > room]
    assert refused == [rows for rows in (32, 16, 8, 4, 2) if rows > room]
    assert asked[: len(refused)] == refused


def test_a_product_that_does_not_fit_ends_the_run_by_name() -> None:
    def measure(jacobian: Jacobian, vectors: Tensor) -> Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(RunError, match="does not hold one product with the decoder's Jacobian"):
        in_chunks(measure, linear_decoder(), latents(), normal(2, 3, *IMAGE), 2**30)


def test_gradients_of_parameters_are_not_touched() -> None:
    decoder = conv_decoder()
    Jacobian(decoder, latents(), 2).pull(torch.ones(2, 3, *IMAGE))
    assert all(parameter.grad is None for parameter in decoder.parameters())
