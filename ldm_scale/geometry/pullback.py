"""Products with the decoder's Jacobian J (M image values by D latent dimensions), and the pullback metric J^T J."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from ldm_scale.device.budget import Budget
from ldm_scale.geometry.kernels import linear_kernels
from ldm_scale.geometry.staging import Staged, stage

Decoder = Callable[[Tensor], Tensor]
T = TypeVar("T")


def _linearise(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The function's value at x, and v -> J^T v of its Jacobian J there."""
    value, transposed, *_ = torch.func.vjp(function, x)
    return value, lambda vector: transposed(vector)[0]


def _pull(decode: Decoder) -> Callable[[Tensor, Tensor], Tensor]:
    """J^T v: one backward pass."""
    return lambda z, cotangent: _linearise(decode, z)[1](cotangent)


def _push(decode: Decoder) -> Callable[[Tensor, Tensor], Tensor]:
    """J v: the backward pass is linear, and its own backward pass is J. Forward mode lacks rules for some kernels."""

    def product(z: Tensor, tangent: Tensor) -> Tensor:
        images, pull = _linearise(decode, z)
        return _linearise(pull, torch.zeros_like(images))[1](tangent)

    return product


PRODUCTS = {"push": _push, "pull": _pull}


@dataclass
class TracedDecoder:
    """A decoder whose products with J are traced once for latents of a shape, and counted.

    Attributes:
        products: computed so far, one for each sample and vector.
        budget: how many of them the device has been found to hold at once.
    """

    decode: Decoder
    products: int = 0
    budget: Budget = field(default_factory=lambda: Budget(sys.maxsize, "product with the decoder's Jacobian"))
    _known: dict[Any, Any] = field(default_factory=dict)

    def __call__(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        return self.decode(z)

    def staged(self, name: str, z: Float[Tensor, "n c h w"], vector: Float[Tensor, "n ..."]) -> Staged:
        """The product of PRODUCTS with this name at latents of this shape."""
        key = (name, z.shape, z.dtype, z.device)
        if key not in self._known:
            with torch.no_grad(), linear_kernels():
                self._known[key] = stage(PRODUCTS[name](self.decode), z, vector)
        return self._known[key]

    def product_bytes(self, z: Float[Tensor, "1 c h w"]) -> int:
        """`product_bytes`, measured once for each shape."""
        key = ("bytes", z.shape, z.dtype, z.device)
        if key not in self._known:
            self._known[key] = product_bytes(self.decode, z)
        return self._known[key]


def traced(decode: Decoder) -> TracedDecoder:
    """The decoder as one that keeps its traces; itself if it does already."""
    return decode if isinstance(decode, TracedDecoder) else TracedDecoder(decode)


class Jacobian:
    """J at each of n latents: products with it and with its transpose, on one linearisation of each.

    Args:
        at_once: how many vectors of each latent go through the decoder together.

    Example:
        >>> decode = lambda z: z.expand(-1, 3, -1, -1) ** 2  # J is 2 z in every channel
        >>> jacobian = Jacobian(decode, torch.full((1, 1, 1, 1), 5.0), at_once=1)
        >>> jacobian.push(torch.ones(1, 1, 1, 1, 1)).flatten(), jacobian.pull(torch.ones(1, 1, 3, 1, 1)).flatten()
        (tensor([10., 10., 10.]), tensor([30.]))
    """

    def __init__(self, decode: Decoder, z: Float[Tensor, "n c h w"], at_once: int) -> None:
        self.z = z.contiguous()
        self.at_once = at_once
        self._decoder = traced(decode)
        self._residuals: dict[str, tuple[Tensor, ...]] = {}

    def push(self, tangents: Float[Tensor, "k n c h w"]) -> Float[Tensor, "k n 3 H W"]:
        """J v at each latent for k tangents v."""
        return self._products("push", tangents)

    def pull(self, cotangents: Float[Tensor, "k n 3 H W"]) -> Float[Tensor, "k n c h w"]:
        """J^T v at each latent for k cotangents v."""
        return self._products("pull", cotangents)

    def _products(self, name: str, vectors: Tensor) -> Tensor:
        self._decoder.products += len(vectors) * len(self.z)
        staged = self._decoder.staged(name, self.z, vectors[0])
        with torch.no_grad():
            if name not in self._residuals:
                self._residuals[name] = staged.residuals(self.z)
            residuals = self._residuals[name]
            return torch.func.vmap(lambda vector: staged.product(vector, *residuals), chunk_size=self.at_once)(vectors)


def product_bytes(decode: Decoder, z: Float[Tensor, "1 c h w"]) -> int:
    """Bytes of intermediate results that one product with J or J^T holds, measured on one forward pass.

    Example:
        z z saves both factors, of 2 floats each, and its result of 6 is the image:

        >>> product_bytes(lambda z: (z * z).expand(-1, 3, -1, -1), torch.ones(1, 1, 1, 2))  # 4 (2 + 2 + 6)
        40
    """
    held = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal held
        held += tensor.nbytes
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
    with torch.enable_grad(), linear_kernels(), hooks:
        image = decode(z.detach().requires_grad_())
    return held + image.nbytes


def chunk_sizes(decode: Decoder, z: Float[Tensor, "n c h w"], products: int, memory: int) -> tuple[int, int]:
    """How many samples, and how many products of each, `memory` bytes hold at once.

    Args:
        products: that each sample needs.

    Returns:
        Samples, a power of two (batches of any size are cut into few shapes), and products; at least one of one.

    Example:
        Memory for ten products of three latents with four each:

        >>> decode, z = lambda z: z.expand(-1, 3, -1, -1), torch.zeros(3, 1, 1, 1)
        >>> chunk_sizes(decode, z, products=4, memory=10 * product_bytes(decode, z[:1]))
        (2, 4)
    """
    decoder = traced(decode)
    rows = max(1, min(decoder.budget.limit, memory // decoder.product_bytes(z[:1])))
    samples = 1 << (min(len(z), max(1, rows // products)).bit_length() - 1)
    return samples, min(products, max(1, rows // samples))


def in_chunks(
    measure: Callable[[Jacobian, Tensor], T],
    decode: Decoder,
    z: Float[Tensor, "n c h w"],
    vectors: Shaped[Tensor, "k n ..."],
    memory: int,
) -> list[T]:
    """measure(J of some samples, their vectors), for as many samples at a time as memory holds.

    Args:
        measure: takes J at some of the samples and their vectors (k, some, ...).
        vectors: k for each sample, or what else of it there are k of.
        memory: bytes that the products computed at once may hold; halved for good if the device holds fewer.

    Returns:
        What measure gave for consecutive samples, in their order.

    Raises:
        RunError: The device does not hold one product.
    """
    decoder = traced(decode)
    results: list[T] = []
    done = 0
    while done < len(z):
        samples, at_once = chunk_sizes(decoder, z[done:], len(vectors), memory)
        some = slice(done, done + samples)
        try:
            results.append(measure(Jacobian(decoder, z[some], at_once), vectors[:, some]))
        except torch.OutOfMemoryError:
            decoder.budget.halve(samples * at_once)
        else:
            done += samples
    return results


def gram(jacobian: Jacobian, basis: Float[Tensor, "d n c h w"]) -> Float[Tensor, "n d d"]:
    """Inner products of J's products with d tangents: G if they are the basis. Float64."""
    columns = jacobian.push(basis).flatten(2).transpose(0, 1).double()
    return columns @ columns.mT


def pullback_metric(decode: Decoder, z: Float[Tensor, "n c h w"], memory: int) -> Float[Tensor, "n d d"]:
    """The pullback metric G = J^T J of each sample, exactly, in float64.

    From all D columns of J (arXiv 2511.20592, section 4).

    Args:
        memory: bytes that the products computed at once may hold; it does not change G.

    Raises:
        RunError: The device does not hold one product.
    """
    dimensions = z[0].numel()
    basis = torch.eye(dimensions, dtype=z.dtype, device=z.device).reshape(dimensions, 1, *z.shape[1:])
    return torch.cat(in_chunks(gram, decode, z, basis.expand(-1, *z.shape), memory))
