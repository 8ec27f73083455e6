"""Kernels that can be differentiated twice and batched, in place of those that a decoder would call."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import conv2d, conv_transpose2d, group_norm, linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only


class NormalisationJacobian(Function):
    """The Jacobian of `Normalisation` at x, applied to a vector. It is symmetric, so it is its own transpose.

    d/dx ((x - mean) / std) = (I - 1 1^T / m - y y^T / m) / std over the m values of a group; y are the normalised ones.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(vector: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, groups: int) -> Tensor:
        n, channels = x.shape[:2]
        sizes = (n, channels, x[0, 0].numel(), groups)
        backward = torch.ops.aten.native_group_norm_backward
        return backward(vector.contiguous(), x, mean, rstd, None, *sizes, [True, False, False])[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, *tensors, ctx.groups = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, vector: Tensor) -> tuple[Tensor, None, None, None, None]:
        return NormalisationJacobian.apply(vector, *ctx.saved_tensors, ctx.groups), None, None, None, None


class Normalisation(Function):
    """Each group of channels of each sample to mean 0 and variance 1 (Wu and He 2018); also its mean and 1 / std.

    Torch's own rule for the second derivative takes a dozen passes over the activations, this one takes one.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        n, channels = x.shape[:2]
        return torch.native_group_norm(x, None, None, n, channels, x[0, 0].numel(), groups, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        x, ctx.groups, _ = inputs
        _, mean, rstd = output
        ctx.mark_non_differentiable(mean, rstd)
        ctx.save_for_backward(x, mean, rstd)

    @staticmethod
    def backward(ctx: Any, vector: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        return NormalisationJacobian.apply(vector, *ctx.saved_tensors, ctx.groups), None, None


def normalised_groups(
    input: Float[Tensor, "n c *size"],
    num_groups: int,
    weight: Float[Tensor, " c"] | None = None,
    bias: Float[Tensor, " c"] | None = None,
    eps: float = 1e-5,
) -> Float[Tensor, "n c *size"]:
    """torch.nn.functional.group_norm by `Normalisation`, of inputs of any layout (attention's are channels-last).

    At least in float32, as torch's autocast has it, too.

    Example:
        >>> normalised_groups(torch.tensor([[[1.0], [3.0]]]), num_groups=1, eps=0.0).flatten()
        tensor([-1.,  1.])
    """
    precise = input.to(torch.promote_types(input.dtype, torch.float32))
    y = Normalisation.apply(precise.contiguous(), num_groups, eps)[0]
    by_channel = (-1, *(1,) * (input.dim() - 2))
    if weight is not None:
        y = y * weight.reshape(by_channel)
    return y if bias is None else y + bias.reshape(by_channel)


def precise_attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """torch.nn.functional.scaled_dot_product_attention, at least in float32.

    Autocast mixes precisions inside of it, which its second derivative refuses.
    """
    if value.dtype is not torch.bfloat16:
        return scaled_dot_product_attention(query, key, value, *args, **kwargs)
    with torch.autocast(value.device.type, enabled=False):
        return scaled_dot_product_attention(query.float(), key.float(), value.float(), *args, **kwargs)


REPLACED: dict[Any, Callable[..., Any]] = {
    group_norm: normalised_groups,
    scaled_dot_product_attention: precise_attention,
}


class _Replaced(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return REPLACED.get(func, func)(*args, **(kwargs or {}))


# What autocast has in bfloat16 of what decoders call.
LOWERED = {conv2d, conv_transpose2d, linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, torch.baddbmm}


class _Lowered(TorchFunctionMode):
    """torch's autocast to bfloat16 on the device "meta", for which it has none."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in LOWERED:
            args, kwargs = tree_map_only(Tensor, Tensor.bfloat16, (args, kwargs))
        return func(*args, **kwargs)


def in_bfloat16(decode: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The decoder with its convolutions and matrix products in bfloat16, and with them those of its Jacobian.

    Latents and images are float32, so that what is made of the products is, too. bfloat16 has float32's range, which
    SDXL's autoencoder needs: in float16 it overflows.

    Example:
        A weight of 1 + 2^-10 is rounded to 1, an image of 1 / 3 would have been:

        >>> weight = torch.full((3, 1, 1, 1), 1 + 2**-10)
        >>> in_bfloat16(lambda z: torch.nn.functional.conv2d(z, weight) / 3)(torch.ones(1, 1, 1, 1)).flatten()
        tensor([0.3340, 0.3340, 0.3340])
    """

    def lower(z: Tensor) -> Tensor:
        if z.is_meta:
            with _Lowered():
                return decode(z).float()
        # A cache of cast weights would hand the tensors of one trace to another.
        with torch.autocast(z.device.type, torch.bfloat16, cache_enabled=False):
            return decode(z).float()

    return lower


@contextmanager
def linear_kernels() -> Iterator[None]:
    """Only kernels with second derivatives that can be batched: fused attention has none (pytorch #128971)."""
    with sdpa_kernel(SDPBackend.MATH), _Replaced():
        yield
