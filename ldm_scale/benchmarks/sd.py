"""An audit of Stable Diffusion's own shapes: seconds and operations of each part, beside the device's matrix speed.

Without Ray, S3 or network: `python -m ldm_scale.benchmarks.sd`.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from ldm_scale.auditor import evaluations_at_once, products_memory
from ldm_scale.benchmarks.device import PLAIN_PRECISION, SIDES, matrix_speed, run_alone, stable_diffusion
from ldm_scale.benchmarks.lines import SECONDS, Line
from ldm_scale.benchmarks.options import StableDiffusionBenchmarkConfig
from ldm_scale.benchmarks.timing import open_device, seconds
from ldm_scale.config.audit import ComputeConfig
from ldm_scale.costs.flops import Arithmetic, measure_target
from ldm_scale.device.budget import Budget
from ldm_scale.geometry.pullback import Jacobian, TracedDecoder
from ldm_scale.report.labels import scaled
from ldm_scale.targets.base import Target
from ldm_scale.targets.denoising import Conditioner, Conditions, predict_noises
from ldm_scale.targets.execution import Execution

PART = "sd"


@dataclass(frozen=True)
class _Part:
    """Work of an audit: its operations, how many of what it is made of are computed, and how many a sample takes."""

    what: str
    work: Callable[[], object]
    flops: int
    count: int
    each: int
    precision: str = PLAIN_PRECISION


def _text(target: Target, arithmetic: Arithmetic, config: StableDiffusionBenchmarkConfig) -> _Part:
    captions = [str(number) for number in range(config.samples)]
    work = partial(target.condition, captions, [None] * config.samples)
    return _Part("text", work, config.samples * arithmetic.condition.flops, config.samples, 1)


def _encoding(target: Target, arithmetic: Arithmetic, config: StableDiffusionBenchmarkConfig) -> _Part:
    images = torch.randn(config.samples, 3, target.image_size, target.image_size, device=target.alphas_cumprod.device)
    work = partial(target.encode, images, None)
    return _Part("encoding", work, config.samples * arithmetic.encoding.flops, config.samples, 1)


def _evaluations(target: Target, arithmetic: Arithmetic, config: StableDiffusionBenchmarkConfig) -> _Part:
    """Of all samples at all timesteps, as an audit makes them."""
    device, timesteps = target.alphas_cumprod.device, range(0, 10 * config.timesteps, 10)
    values, places = Conditioner(target).make([[(str(number), None)] for number in range(config.samples)])
    conditions = Conditions.of(values, places, timesteps, target.alphas_cumprod)
    budget = Budget(evaluations_at_once(ComputeConfig(), device), "evaluation of the denoiser")
    x = torch.randn(config.timesteps, config.samples, *target.latent_shape, device=device)
    work = partial(predict_noises, target, conditions, budget, x, timesteps)
    count = config.timesteps * config.samples
    return _Part(
        "evaluation", work, count * arithmetic.evaluation.flops, count, config.timesteps, precision=config.precision
    )


def _products(target: Target, arithmetic: Arithmetic, config: StableDiffusionBenchmarkConfig) -> _Part:
    """J^T v of one sample's probes, from the pass that they share on."""
    device, side, probes = target.alphas_cumprod.device, target.image_size, config.probes
    z = torch.randn(1, *target.latent_shape, device=device)
    vectors = torch.randn(probes, 1, 3, side, side, device=device)
    decoder, at_once = TracedDecoder(target.decode), products_memory(None, device) // arithmetic.product_memory
    decoder.staged("pull", z, vectors[0])  # which computes nothing yet
    flops = arithmetic.pulls.shared + probes * arithmetic.pulls.each
    return _Part("product J^T v", lambda: Jacobian(decoder, z, max(1, at_once)).pull(vectors), flops, probes, probes)


PARTS = (_text, _encoding, _evaluations, _products)


def run_sd_benchmark(config: StableDiffusionBenchmarkConfig) -> Iterator[Line]:
    """Seconds and operations of each part of an audit, then of a sample, and the device's matrix speed before them.

    Raises:
        UsageError: cuda is asked for if there is no GPU, or the device cannot run the denoiser in this way.
    """
    device = open_device(config.device, threads=1)  # as many as an auditor has
    execution = Execution(config.precision, config.compile, config.channels_last)
    execution.check(config.device)
    speeds = {}
    for precision in dict.fromkeys((PLAIN_PRECISION, config.precision)):
        speeds[precision] = matrix_speed(precision, device, repeats=3)
        what = f"matrix product of {SIDES[config.device]:,}, {precision}"
        yield Line(PART, what, speeds[precision] / 1e12, "TFLOP/s")
    outline = stable_diffusion("meta")
    arithmetic = measure_target(outline, partial(outline.condition, [None], [None]))
    target = stable_diffusion(config.device, execution)
    whole = least = flops = 0.0
    for make in PARTS:
        part = make(target, arithmetic, config)
        with torch.no_grad():
            took = min(seconds(part.work, device) for _ in range(1 + config.repeats))
        took, operations = took / part.count, part.flops / part.count
        bound = operations / speeds[part.precision]
        note = f"{scaled(operations, 'FLOP')}, {bound / took:.1%} of the matrix speed"
        yield Line(PART, f"{part.what}, {part.precision}", took, "s", bound=bound, note=note)
        whole, least, flops = whole + part.each * took, least + part.each * bound, flops + part.each * operations
    note = f"{scaled(flops, 'FLOP')}; evaluations: {config.timesteps}, products: {config.probes}"
    yield Line(PART, "a sample", whole, SECONDS, bound=least, note=note)


def main(argv: Sequence[str] | None = None) -> int:
    """`ldm-scale benchmark sd` where there is no Ray."""
    return run_alone("ldm_scale.benchmarks.sd", StableDiffusionBenchmarkConfig, run_sd_benchmark, argv)


if __name__ == "__main__":
    sys.exit(main())
