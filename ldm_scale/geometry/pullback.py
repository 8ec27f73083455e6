"""Products with the decoder's Jacobian J (M image values by D latent dimensions), and the pullback metric J^T J."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Decoder = Callable[[Tensor], Tensor]


def product_bytes(decode: Decoder, z: Float[Tensor, "1 c h w"]) -> int:
    """Bytes of intermediate results that one product with J or J^T holds, measured on one forward pass."""
    held = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal held
        held += tensor.nbytes
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        image = decode(z.detach().requires_grad_())
    return held + image.nbytes


def products_at_once(decode: Decoder, z: Float[Tensor, "n c h w"], memory: int) -> int:
    """How many products of one sample fit into `memory` bytes; at least one."""
    return max(1, memory // product_bytes(decode, z[:1]))


def pushforward(
    decode: Decoder, z: Float[Tensor, "n c h w"], tangents: Float[Tensor, "k n c h w"]
) -> Float[Tensor, "k n 3 H W"]:
    """J v at each sample for k tangents, in forward mode; the primal pass is shared by all tangents.

    Attention runs in its plain form: the fused kernels have no forward-mode rule (pytorch #128971).
    """

    def push(tangent: Tensor) -> Tensor:
        return torch.func.jvp(decode, (z,), (tangent,))[1]

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        return torch.func.vmap(push)(tangents)


def pullback(
    decode: Decoder, z: Float[Tensor, "n c h w"], cotangents: Float[Tensor, "k n 3 H W"], at_once: int
) -> Float[Tensor, "k n c h w"]:
    """J^T v at each sample for k cotangents on one forward pass, `at_once` cotangents at a time."""
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        leaf = z.detach().requires_grad_()
        images = decode(leaf)
        chunks = [
            torch.autograd.grad(images, leaf, chunk, retain_graph=True, is_grads_batched=True)[0]
            for chunk in cotangents.split(at_once)
        ]
    return torch.cat(chunks)


def metric(decode: Decoder, z: Float[Tensor, "n c h w"], memory: int) -> Float[Tensor, "n d d"]:
    """The pullback metric G = J^T J of each sample, exactly, in float64.

    All D columns of J come from forward mode, as many at a time as `memory` bytes hold; the chunks do not change G.
    """
    dimensions = z[0].numel()
    at_once = products_at_once(decode, z, memory)
    basis = torch.eye(dimensions, dtype=z.dtype, device=z.device).reshape(dimensions, 1, *z.shape[1:])
    metrics = []
    for sample in z.split(1):
        columns = torch.cat([pushforward(decode, sample, chunk).flatten(1) for chunk in basis.split(at_once)]).double()
        metrics.append(columns @ columns.T)
    return torch.stack(metrics)
