"""Products with the decoder's Jacobian J (M image values by D latent dimensions), and the pullback metric J^T J."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

Decoder = Callable[[Tensor], Tensor]


@dataclass
class CountedDecoder:
    """A decoder that is told of the products made with its Jacobian or its transpose: one a sample and vector."""

    decode: Decoder
    products: int = 0

    def __call__(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        return self.decode(z)


def _count(decode: Decoder, vectors: Float[Tensor, "k n ..."]) -> None:
    if isinstance(decode, CountedDecoder):
        decode.products += vectors.shape[0] * vectors.shape[1]


class ContiguousGroupNorm(TorchFunctionMode):
    """Gives group_norm contiguous inputs: of others (attention's channels-last) it has neither rule used below."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.group_norm:
            args = (args[0].contiguous(), *args[1:])
        return func(*args, **(kwargs or {}))


@contextmanager
def differentiable_kernels() -> Iterator[None]:
    """Only kernels with forward-mode and batched reverse-mode rules: fused attention has none (pytorch #128971)."""
    with sdpa_kernel(SDPBackend.MATH), ContiguousGroupNorm():
        yield


def product_bytes(decode: Decoder, z: Float[Tensor, "1 c h w"]) -> int:
    """Bytes of intermediate results that one product with J or J^T holds, measured on one forward pass."""
    held = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal held
        held += tensor.nbytes
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
    with torch.enable_grad(), differentiable_kernels(), hooks:
        image = decode(z.detach().requires_grad_())
    return held + image.nbytes


def chunk_sizes(decode: Decoder, z: Float[Tensor, "n c h w"], products: int, memory: int) -> tuple[int, int]:
    """How many samples, and how many of each one's `products`, `memory` bytes hold at once; at least one of one."""
    budget = max(1, memory // product_bytes(decode, z[:1]))
    samples = min(len(z), max(1, budget // products))
    return samples, min(products, max(1, budget // samples))


def in_chunks(
    measure: Callable[[Decoder, Tensor, Tensor, int], Tensor],
    decode: Decoder,
    z: Float[Tensor, "n c h w"],
    vectors: Float[Tensor, "k n ..."],
    memory: int,
) -> list[Tensor]:
    """measure(decode, samples, their k vectors, at_once) for as many samples at a time as `memory` bytes hold."""
    samples, at_once = chunk_sizes(decode, z, len(vectors), memory)
    pairs = zip(z.split(samples), vectors.split(samples, dim=1), strict=True)
    return [measure(decode, some, theirs, at_once) for some, theirs in pairs]


def pushforward(
    decode: Decoder, z: Float[Tensor, "n c h w"], tangents: Float[Tensor, "k n c h w"], at_once: int
) -> Float[Tensor, "k n 3 H W"]:
    """J v at each sample for k tangents in forward mode; `at_once` tangents at a time share one primal pass."""

    def push(tangent: Tensor) -> Tensor:
        return torch.func.jvp(decode, (z,), (tangent,))[1]

    _count(decode, tangents)
    with torch.no_grad(), differentiable_kernels():
        return torch.func.vmap(push, chunk_size=at_once)(tangents)


def pullback(
    decode: Decoder, z: Float[Tensor, "n c h w"], cotangents: Float[Tensor, "k n 3 H W"], at_once: int
) -> Float[Tensor, "k n c h w"]:
    """J^T v at each sample for k cotangents on one forward pass, `at_once` cotangents at a time."""
    _count(decode, cotangents)
    with torch.enable_grad(), differentiable_kernels():
        leaf = z.detach().requires_grad_()
        images = decode(leaf)
        chunks = [
            torch.autograd.grad(images, leaf, chunk, retain_graph=True, is_grads_batched=True)[0]
            for chunk in cotangents.split(at_once)
        ]
    return torch.cat(chunks)


def gram(
    decode: Decoder, z: Float[Tensor, "n c h w"], basis: Float[Tensor, "d n c h w"], at_once: int
) -> Float[Tensor, "n d d"]:
    """Inner products of the images of d tangents, in float64."""
    columns = pushforward(decode, z, basis, at_once).flatten(2).transpose(0, 1).double()
    return columns @ columns.mT


def metric(decode: Decoder, z: Float[Tensor, "n c h w"], memory: int) -> Float[Tensor, "n d d"]:
    """The pullback metric G = J^T J of each sample, exactly, in float64.

    All D columns of J come from forward mode, as many at a time as `memory` bytes hold; the chunks do not change G.
    """
    dimensions = z[0].numel()
    basis = torch.eye(dimensions, dtype=z.dtype, device=z.device).reshape(dimensions, 1, *z.shape[1:])
    return torch.cat(in_chunks(gram, decode, z, basis.expand(-1, *z.shape), memory))
