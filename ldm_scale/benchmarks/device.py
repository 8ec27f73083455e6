"""What a device makes of the models' parts: seconds of each, beside the device's own speed at matrix products.

Without Ray, S3 or network: `python -m ldm_scale.benchmarks.device`.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from jaxtyping import Int
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from ldm_scale.benchmarks.lines import Line, encode, show
from ldm_scale.benchmarks.machine import describe_machine, describe_versions
from ldm_scale.benchmarks.options import DeviceBenchmarkConfig
from ldm_scale.benchmarks.timing import least_seconds, open_device
from ldm_scale.config.audit import DenoiserPrecision
from ldm_scale.config.base import DEMO, Config, build
from ldm_scale.costs.flops import Arithmetic, measure_target
from ldm_scale.errors import RunError, UsageError, unknown_name
from ldm_scale.geometry.pullback import Jacobian, TracedDecoder
from ldm_scale.targets.autoencoder import freeze
from ldm_scale.targets.base import Target
from ldm_scale.targets.execution import DTYPES, PLAIN, Execution
from ldm_scale.targets.load import load_target
from ldm_scale.targets.stable_diffusion import StableDiffusionTarget
from ldm_scale.targets.text import TextEncoder
from ldm_scale.terminal import Parser, say

PART = "device"
PLAIN_PRECISION = "float32"
# Side of the square matrices whose product is a device's speed: large enough to keep it busy.
SIDES = {"cpu": 1024, "cuda": 8192}
# Stable Diffusion 1.x (Rombach et al. 2022): its networks' configurations, where they are not diffusers' defaults.
UNET = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
AUTOENCODER = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}


class RandomTokens(TextEncoder):
    """CLIP's text encoder with random tokens in place of every caption's: arithmetic of the right shape."""

    def __init__(self, model: CLIPTextModel) -> None:
        self.model = freeze(model)

    def tokens(self, captions: Sequence[str | None], length: int | None = None) -> Int[Tensor, "n tokens"]:
        config = self.model.config
        size = (len(captions), config.max_position_embeddings)
        return torch.randint(config.vocab_size, size, generator=torch.Generator().manual_seed(0))


def stable_diffusion(device: str, execution: Execution = PLAIN) -> Target:
    """A target of Stable Diffusion 1.x's shapes for images of 512 px, its weights random, made on the device."""
    torch.manual_seed(0)
    with torch.device(device):
        autoencoder, denoiser = AutoencoderKL(**AUTOENCODER), UNet2DConditionModel(**UNET)
        text = RandomTokens(CLIPTextModel(CLIPTextConfig(**TEXT)))
    schedule = DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear")
    return StableDiffusionTarget(autoencoder, denoiser, schedule, text, execution=execution)


TARGETS: dict[str, Callable[..., Target]] = {"demo": partial(load_target, DEMO / "target"), "sd": stable_diffusion}


def precisions(device: str) -> list[Any]:
    """Those that a denoiser can have on this kind of device."""

    def taken(precision: Any) -> bool:
        try:
            Execution(precision).check(device)
        except UsageError:
            return False
        return True

    return [precision for precision in get_args(DenoiserPrecision) if taken(precision)]


def matrix_speed(precision: Any, device: torch.device, repeats: int) -> float:
    """Operations a second of a square matrix product, 2 n^3 each: the most that convolutions could come near to."""
    side = SIDES[device.type]
    a = torch.randn(side, side, device=device).to(DTYPES[precision])
    with Execution(precision).arithmetic():
        return 2 * side**3 / least_seconds(lambda: a @ a, device, repeats)


class _Timing:
    """Times parts of one target in one precision; a line for each batch that the device's memory holds."""

    def __init__(self, name: str, precision: str, speed: float, device: torch.device, config: DeviceBenchmarkConfig):
        self._name, self._precision, self._speed = name, precision, speed
        self._device, self._config = device, config

    def lines(self, part: str, flops: int, prepare: Callable[[int], Callable[[], object]]) -> Iterator[Line]:
        """Seconds of one of the parts, `flops` operations each, with prepare(n) to work on n of them at once."""
        for batch in self._config.batches:
            try:
                took, peak = self._measure(prepare(batch))
            except torch.OutOfMemoryError:
                return  # nor does it hold a larger one
            least = flops * batch / self._speed
            memory = f"; peak {peak / 1e9:.2f} GB" if peak else ""
            what = f"{self._name}: {part}, {batch} at once, {self._precision}"
            note = f"{least / took:.1%} of the matrix speed{memory}"
            yield Line(PART, what, took / batch, "s", bound=least / batch, note=note)

    def _measure(self, work: Callable[[], object]) -> tuple[float, int]:
        """The least seconds, and on cuda the most bytes that were allocated."""
        on_cuda = self._device.type == "cuda"
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(self._device)
        took = least_seconds(work, self._device, self._config.repeats)
        return took, torch.cuda.max_memory_allocated(self._device) if on_cuda else 0


def evaluations(target: Target, timing: _Timing, arithmetic: Arithmetic) -> Iterator[Line]:
    """The denoiser's, in the precision that the target has."""
    device = target.alphas_cumprod.device

    def prepare(batch: int) -> Callable[[], object]:
        z = torch.randn(batch, *target.latent_shape, device=device)
        condition = target.condition([None] * batch, [None] * batch)
        return partial(target.predict_noise, z, torch.full((batch,), 100, device=device), condition)

    with torch.inference_mode():
        yield from timing.lines("evaluation", arithmetic.evaluation.flops, prepare)


def autoencoding(target: Target, timing: _Timing, arithmetic: Arithmetic) -> Iterator[Line]:
    """Encodings, decodings, and products with the decoder's Jacobian at one latent, always in float32."""
    device, side = target.alphas_cumprod.device, target.image_size
    decoder = TracedDecoder(target.decode)

    def images(batch: int) -> Tensor:
        return torch.randn(batch, 3, side, side, device=device)

    def latents(batch: int) -> Tensor:
        return torch.randn(batch, *target.latent_shape, device=device)

    def product(name: str, vectors: Callable[[int], Tensor], batch: int) -> Callable[[], object]:
        jacobian = Jacobian(decoder, latents(1), batch)
        return partial(getattr(jacobian, name), vectors(batch)[:, None])

    with torch.no_grad():
        yield from timing.lines(
            "encoding", arithmetic.encoding.flops, lambda batch: partial(target.encode, images(batch), None)
        )
        yield from timing.lines(
            "decoding", arithmetic.decoding.flops, lambda batch: partial(target.decode, latents(batch))
        )
        yield from timing.lines("product J v", arithmetic.pushes.each, partial(product, "push", latents))
        yield from timing.lines("product J^T v", arithmetic.pulls.each, partial(product, "pull", images))


def _measure(config: DeviceBenchmarkConfig, device: torch.device) -> Iterator[Line]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(describe_machine()["cpu"])
    speeds = {precision: matrix_speed(precision, device, config.repeats) for precision in precisions(config.device)}
    for precision, speed in speeds.items():
        what = f"matrix product of {SIDES[device.type]:,}, {precision}"
        yield Line(PART, what, speed / 1e12, "TFLOP/s", note=name)
    for name in config.targets:
        outline = TARGETS[name]("meta")
        arithmetic = measure_target(outline, partial(outline.condition, [None], [None]))
        for precision, speed in speeds.items():
            target = TARGETS[name](config.device, execution=Execution(precision))
            timing = _Timing(name, precision, speed, device, config)
            yield from evaluations(target, timing, arithmetic)
            if precision == PLAIN_PRECISION:
                yield from autoencoding(target, timing, arithmetic)


def run_device_benchmark(config: DeviceBenchmarkConfig) -> Iterator[Line]:
    """The device's matrix speed, then seconds of each part of each target; at the end a table, and the numbers' file.

    The denoiser is timed in every precision that the device takes, everything else in float32, as an audit computes it.
    Batches that the device's memory does not hold are left out.

    Raises UsageError for an unknown target, or for cuda if there is no GPU.
    """
    if unknown := next((name for name in config.targets if name not in TARGETS), None):
        raise unknown_name("target", unknown, TARGETS)
    device = open_device(config.device)
    lines = []
    for line in _measure(config, device):
        lines.append(line)
        yield line
    if config.numbers is not None:
        path = Path(config.numbers)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(lines, describe_machine(), describe_versions()))
    show(lines)


def run_alone(
    module: str, kind: type[Config], run: Callable[[Any], Iterator[Line]], argv: Sequence[str] | None = None
) -> int:
    """A part of the benchmark where there is no Ray, as a module that is run: its lines go to stderr as they come."""
    parser = Parser(prog=f"python -m {module}", description=kind.__doc__)
    for name, field in kind.model_fields.items():
        flags = ["--numbers", "--json"] if name == "numbers" else [f"--{name.replace('_', '-')}"]
        parser.add_argument(*flags, metavar="X", help=field.description)
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    try:
        for line in run(build(kind, given)):
            say(str(line), sys.stderr)
    except (UsageError, RunError) as error:
        say(f"{parser.prog}: error: {error}", sys.stderr)
        return error.exit_status
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """`ldm-scale benchmark device` where there is no Ray; the table goes to stdout."""
    return run_alone("ldm_scale.benchmarks.device", DeviceBenchmarkConfig, run_device_benchmark, argv)


if __name__ == "__main__":
    sys.exit(main())
