"""What a target's passes take, counted on shapes alone: operations, and the memory of what they hold. Torch only.

Operations are those of convolutions and matrix products, attention's included, a multiplication and an addition being
two. Work on single elements (normalisation, activations, softmax) is not counted.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ldm_scale.geometry.pullback import Decoder, Jacobian, TracedDecoder, product_bytes
from ldm_scale.targets.base import ConditionTensors, Target


class _LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made in its block took at any one time."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live = 0
        self._held: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, Tensor):
                self._hold(tensor.untyped_storage())
        return outputs

    def _hold(self, storage: torch.UntypedStorage) -> None:
        # Views share a storage.
        if storage not in self._held:
            self._held.add(storage)
            weakref.finalize(storage, self._release, storage.nbytes())
            self._live += storage.nbytes()
            self.peak = max(self.peak, self._live)

    def _release(self, size: int) -> None:
        self._live -= size


@dataclass(frozen=True)
class Pass:
    """One forward pass of one sample: its operations, and the bytes of intermediate results that it holds at most."""

    flops: int
    memory: int


@dataclass(frozen=True)
class Products:
    """Operations of products with J or J^T at one sample: of each vector, and of a pass that vectors share."""

    each: int
    shared: int


@dataclass(frozen=True)
class Passes:
    """What the passes of an audit through a target take, one sample at a time.

    Attributes:
        condition: a forward pass through the text encoders.
        encoding: a forward pass through the encoder.
        decoding: a forward pass through the decoder.
        evaluation: a forward pass through the denoiser.
        product_memory: bytes that one product with the decoder's Jacobian holds.
        weights: bytes of all parameters in float32.
    """

    condition: Pass
    encoding: Pass
    decoding: Pass
    evaluation: Pass
    product_memory: int
    weights: int


@dataclass(frozen=True)
class Arithmetic(Passes):
    """The operations of products with the decoder's Jacobian, too, whose counting takes seconds.

    Attributes:
        pushes: products J v.
        pulls: products J^T v.
    """

    pushes: Products
    pulls: Products


def count_flops(run: Callable[[], object]) -> int:
    """Operations of convolutions and matrix products that a call makes, by torch's own counter."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def measure_pass(run: Callable[[], object]) -> Pass:
    """A forward pass without gradients, run twice."""
    with torch.inference_mode():
        return measure_call(run)


def measure_call(run: Callable[[], object]) -> Pass:
    """All operations of a call, and the bytes that it holds at most, gradients included; it is made twice."""
    flops = count_flops(run)
    with _LiveBytes() as live:
        run()
    return Pass(flops, live.peak)


def count_products(multiply: Callable[[Tensor], object], vector: Tensor) -> Products:
    """Operations of multiply(vectors) for vectors (k, 1, ...) of the shape of `vector`, all of them at once.

    From a call with one and a call with two: a further vector takes `each`, and what is left of the first call is
    `shared`. A call is made before without counting, as the first one also traces.
    """
    one, two = (partial(multiply, vector.expand(count, 1, *vector.shape)) for count in (1, 2))
    one()
    first, both = count_flops(one), count_flops(two)
    return Products(each=both - first, shared=2 * first - both)


def measure_passes(target: Target, condition: Callable[[], ConditionTensors], decode: Decoder | None = None) -> Passes:
    """What the passes through a target on the device "meta" take; no number is computed.

    Args:
        target: on the device "meta".
        condition: makes the condition of one sample.
        decode: the decoder in the precision of the products with its Jacobian; the target's own by default.
    """
    z = torch.empty(1, *target.latent_shape, device="meta")
    images = torch.empty(1, 3, target.image_size, target.image_size, device="meta")
    first = torch.zeros(1, dtype=torch.long, device="meta")
    with torch.inference_mode():
        given = condition()
    return Passes(
        condition=measure_pass(condition),
        encoding=measure_pass(lambda: target.encode(images, None)),
        decoding=measure_pass(lambda: target.decode(z)),
        evaluation=measure_pass(lambda: target.predict_noise(z, first, given)),
        product_memory=product_bytes(decode or target.decode, z),
        weights=sum(4 * weight.numel() for weight in target.weights()),
    )


def measure_target(
    target: Target, condition: Callable[[], ConditionTensors], decode: Decoder | None = None
) -> Arithmetic:
    """What all parts of a target take; arguments as of `measure_passes`."""
    z = torch.empty(1, *target.latent_shape, device="meta")
    image = torch.empty(3, target.image_size, target.image_size, device="meta")
    decoder = TracedDecoder(decode or target.decode)
    return Arithmetic(
        **vars(measure_passes(target, condition, decode)),
        pushes=count_products(lambda vectors: Jacobian(decoder, z, len(vectors)).push(vectors), z[0]),
        pulls=count_products(lambda vectors: Jacobian(decoder, z, len(vectors)).pull(vectors), image),
    )
