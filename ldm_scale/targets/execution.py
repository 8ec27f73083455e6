"""How a target's denoiser is run: its precision, whether it is compiled, and its layout in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from ldm_scale.config.audit import Compilation, DenoiserPrecision
from ldm_scale.errors import UsageError

DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# torch.compile's names for what an option asks for.
MODES = {"default": "default", "graphs": "reduce-overhead"}


def allow_tf32(allowed: bool) -> None:
    """Whether this process's products and convolutions of float32 may round their factors to TF32's 10 bits, on cuda.

    torch allows it for convolutions by default. These are its older switches: with the newer fp32_precision,
    torch.compile's cache fails (torch 2.13's get_float32_matmul_precision raises).
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


@dataclass(frozen=True)
class Execution:
    """How a denoiser is run.

    Attributes:
        precision: of its weights and arithmetic; others give it float32, and get float32. tf32 is float32 whose
            products and convolutions are rounded.
        compile: by torch.compile, or with CUDA graphs too.
        channels_last: its weights and inputs lie in memory with the channels last.
    """

    precision: DenoiserPrecision = "float32"
    compile: Compilation = "off"
    channels_last: bool = False

    def check(self, device: str, option: str = "precision") -> None:
        """Raise UsageError if this kind of device cannot do it; `option` says where the precision was given."""
        if torch.device(device).type == "cuda":
            return
        if self.precision in ("tf32", "float16"):
            raise UsageError(f"{option} {self.precision} works on cuda only; take bfloat16 or float32")
        if self.compile == "graphs":
            raise UsageError("compute.compile graphs works on cuda only; take default or off")

    def prepare(self, denoiser: Any) -> Any:
        """The denoiser itself, its weights cast and laid out, its forward pass compiled at the first use."""
        # torch's own method: diffusers' warns of the cast, even of models such as ours, with no layer to keep float32.
        nn.Module.to(denoiser, DTYPES[self.precision])
        if self.channels_last:
            denoiser.to(memory_format=torch.channels_last)
        if self.compile != "off":
            denoiser.compile(mode=MODES[self.compile])
        return denoiser

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """A block in which the denoiser is called: with TF32 if that was asked for, which ends with the block."""
        if self.compile == "graphs":
            # The last call's output has been copied: its memory may be used again.
            torch.compiler.cudagraph_mark_step_begin()
        allow_tf32(self.precision == "tf32")
        try:
            yield
        finally:
            allow_tf32(False)

    def take(self, x: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "n ..."]:
        """A latent, or a part of a condition, as the denoiser takes it; classes stay as they are."""
        x = x.to(DTYPES[self.precision]) if x.is_floating_point() else x
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last and x.dim() == 4 else x

    def give(self, output: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The denoiser's output for everything else: float32, contiguous, and not in a CUDA graph's own memory."""
        copy = self.compile == "graphs"
        return output.to(torch.float32, memory_format=torch.contiguous_format, copy=copy)


PLAIN = Execution()
