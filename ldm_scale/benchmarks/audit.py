"""How fast an audit's models are used: ours beside the published procedure, and beside what the models alone cost."""

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ldm_scale.analysis.metrics import aurocs
from ldm_scale.auditor import AuditedBatch, Auditor
from ldm_scale.benchmarks import published
from ldm_scale.benchmarks.lines import SECONDS, Line
from ldm_scale.benchmarks.options import AuditBenchmarkConfig
from ldm_scale.benchmarks.pictures import Pictures, demo_pictures
from ldm_scale.benchmarks.timing import least_seconds, open_device, seconds
from ldm_scale.config.audit import AuditConfig, dropped_bins
from ldm_scale.config.base import build
from ldm_scale.device.draws import keyed_normal, keyed_words
from ldm_scale.device.stopwatch import Stopwatch
from ldm_scale.geometry.stability import mask_overlap, rank_correlation
from ldm_scale.schema import spectrum_column
from ldm_scale.targets.base import Target, to_images
from ldm_scale.targets.execution import Execution
from ldm_scale.targets.weights import fetch_weights

PART = "audit"
PROBES, BINS = 8, 20
# Batch sizes that the bare models are tried at, and the timestep that the denoiser is tried at.
SIZES, STEP = (8, 16, 32, 64, 128), 100


def audit_config(seed: int, **changes: object) -> AuditConfig:
    """The paper's audit: four attacks at 20 timesteps, 8 probes, truncated distortion of every sample."""
    values = {
        "out": "unused",
        "seed": seed,
        "attacks": {name: {"timesteps": published.TIMESTEPS} for name in published.ATTACKS},
        "geometry": {"probes": PROBES, "distortion": "truncated"},
        "masks": {"bins": BINS},
    }
    return build(AuditConfig, values | changes)


class TimedDenoiser:
    """A target whose denoiser's seconds are taken; it is asked for the rest as it is."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.restart()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def predict_noise(self, *arguments: Any) -> Tensor:
        self._stopwatch.mark()
        noise = self._target.predict_noise(*arguments)
        self._stopwatch.mark()
        return noise

    def restart(self) -> None:
        """Forget what the denoiser took so far."""
        self._stopwatch = Stopwatch(self._target.alphas_cumprod.device)

    def seconds(self) -> float:
        """All that the denoiser took since."""
        return sum(self._stopwatch.seconds()[1::2])


def run_ours(auditor: Auditor, pictures: Pictures, batch_size: int) -> list[AuditedBatch]:
    """The audited batches."""
    return [
        auditor.audit(some.pixels, some.ids, [()] * len(some), [None] * len(some))
        for some in pictures.batches(batch_size)
    ]


def seconds_by_stage(batches: list[AuditedBatch]) -> dict[str, float]:
    """Over all batches."""
    return {stage: sum(batch.cost.seconds[stage] for batch in batches) for stage in batches[0].cost.seconds}


def measure_bare(target: Target, repeats: int) -> dict[str, tuple[float, int]]:
    """Seconds a sample of one call of each model, and the batch size that suits it best.

    The decoder's forward and backward pass are the least that a product with its Jacobian, or with its transpose, can
    take.
    """
    device, side = target.alphas_cumprod.device, target.image_size
    z = torch.randn(max(SIZES), *target.latent_shape, device=device)
    images = torch.randn(max(SIZES), 3, side, side, device=device)
    steps = torch.full((max(SIZES),), STEP, device=device)

    def backward(n: int) -> Callable[[], object]:
        leaf = z[:n].clone().requires_grad_()
        image = target.decode(leaf)
        return lambda: torch.autograd.grad(image, leaf, images[:n], retain_graph=True)

    def best(prepare: Callable[[int], Callable[[], object]]) -> tuple[float, int]:
        return min((least_seconds(prepare(size), device, repeats) / size, size) for size in SIZES)

    with torch.inference_mode():
        found = {
            "encode": best(lambda n: lambda: target.encode(images[:n], None)),
            "denoise": best(lambda n: lambda: target.predict_noise(z[:n], steps[:n], None)),
            "forward": best(lambda n: lambda: target.decode(z[:n])),
        }
    return found | {"backward": best(backward)}


def make_draws(seed: int, ids: tuple[str, ...], target: Target) -> dict[str, Tensor]:
    """The auditor's own draws for these samples, as the published procedure takes them."""
    device, side = target.alphas_cumprod.device, target.image_size

    def normal(purpose: str, *shape: int) -> Tensor:
        return keyed_normal(seed, ids, purpose, shape, device)

    return {
        "probes": normal("probes", PROBES, 3, side, side),
        "tangents": normal("truncated", published.RANK + published.OVERSAMPLING, *target.latent_shape),
        "noise": torch.stack([normal(f"noise {t}", *target.latent_shape) for t in published.TIMESTEPS]),
        "order": keyed_words(seed, ids, "random mask", int(np.prod(target.latent_shape)), device),
    }


def our_statistics(batches: list[AuditedBatch]) -> dict[tuple[str, str], Float[Tensor, "n t"]]:
    """Of each attack: plain, with the lowest influences dropped, and with as many dropped at random."""
    dropped = dropped_bins(published.DROP, BINS)

    def spectra(column: str) -> Tensor:
        return torch.from_numpy(np.concatenate([batch.spectra[column] for batch in batches]))

    statistics = {}
    for name in published.ATTACKS:
        statistics[name, "plain"] = spectra(name).sum(2)
        statistics[name, "lowest"] = spectra(name)[:, :, dropped:].sum(2)
        statistics[name, "random"] = spectra(spectrum_column(name, "random"))[:, :, dropped:].sum(2)
    return statistics


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest relative difference."""
    return ((ours - theirs) / theirs).abs().max().item()


def compare(batches: list[AuditedBatch], reference: published.Published) -> Iterator[Line]:
    """How far our results are from the published procedure's on the same samples."""
    mine = our_statistics(batches)
    for mask, what in (("plain", "plain"), ("lowest", "lowest 40% dropped"), ("random", "random 40% dropped")):
        ours, theirs = (
            torch.cat([found[name, mask].cpu().T for name in published.ATTACKS])
            for found in (mine, reference.statistics)
        )
        ranks = rank_correlation(ours, theirs).min().item()
        note = f"largest relative difference; samples' rank correlation at least {ranks:.4f}"
        yield Line(PART, f"agreement: statistics, {what}", relative(ours, theirs), note=note)
    influence = torch.from_numpy(np.concatenate([batch.influence for batch in batches]))
    theirs = reference.influence.cpu()
    ranks = rank_correlation(influence, theirs).min().item()
    overlap = mask_overlap(influence, theirs, published.DROP).min().item()
    note = f"largest difference; rank correlation and mask overlap at least {ranks:.4f} and {overlap:.4f}"
    yield Line(PART, "agreement: influence", (influence - theirs).abs().max().item(), note=note)
    distortion = torch.from_numpy(np.concatenate([batch.distortion for batch in batches]))
    ranks = rank_correlation(distortion[None], reference.distortion.cpu()[None]).item()
    note = f"largest relative difference; rank correlation {ranks:.4f}"
    yield Line(PART, "agreement: distortion", relative(distortion, reference.distortion.cpu()), note=note)


def sima_aurocs(target: Target, seed: int, pictures: Pictures, batch_size: int) -> Float[np.ndarray, " t"]:
    """AUROC of SimA at each timestep."""
    attacks, geometry = {"sima": {"timesteps": published.TIMESTEPS}}, {"probes": 1, "distortion": "off"}
    auditor = Auditor(target, audit_config(seed, attacks=attacks, geometry=geometry))
    batches = run_ours(auditor, pictures, batch_size)
    return aurocs(-np.concatenate([batch.spectra["sima"].sum(2) for batch in batches]), pictures.member)


def compare_precisions(targets: Mapping[str, Target], config: AuditBenchmarkConfig) -> Iterator[Line]:
    """AUROC at the best timestep of the first precision, in each; and how far any timestep's deviates.

    targets: the same target, its denoiser in each precision.
    """
    pictures = demo_pictures(config.precision, next(iter(targets.values())).image_size)
    found = {name: sima_aurocs(target, config.seed, pictures, config.batch_size) for name, target in targets.items()}
    first = next(iter(found.values()))
    step = int(first.argmax())
    for name, values in found.items():
        note = f"SimA at t = {published.TIMESTEPS[step]}, {len(pictures)} pictures"
        note += "" if values is first else f"; differs by at most {np.abs(values - first).max():.4f} at any t"
        yield Line(PART, f"AUROC in {name}", float(values[step]), note=note)


def bare_lines(bare: Mapping[str, tuple[float, int]]) -> Iterator[Line]:
    """What the models alone cost."""
    names = {
        "encode": "the encoder alone",
        "denoise": "the denoiser alone",
        "forward": "the decoder's forward pass alone",
        "backward": "the decoder's backward pass alone",
    }
    for name, what in names.items():
        least, size = bare[name]
        yield Line(PART, what, least, SECONDS, note=f"at its best batch size, {size}")


def our_lines(
    target: Target, bare: Mapping[str, tuple[float, int]], pictures: Pictures, config: AuditBenchmarkConfig
) -> Generator[Line, None, tuple[Auditor, float]]:
    """Our audit and the stages its seconds went to, beside the models' calls that they take, each at its bare cost.

    Influence alone and all random draws are measured apart. Returns the auditor, and seconds a sample.
    """
    device, samples, first = target.alphas_cumprod.device, len(pictures), pictures[: config.batch_size]
    timed = TimedDenoiser(target)
    auditor = Auditor(cast(Target, timed), audit_config(config.seed))
    beginning, again = (seconds(lambda: run_ours(auditor, first, config.batch_size), device) for _ in range(2))
    timed.restart()
    batches: list[AuditedBatch] = []
    spent = seconds(lambda: batches.extend(run_ours(auditor, pictures, config.batch_size)), device) / samples
    geometry = {"probes": PROBES, "distortion": "off"}
    estimating = Auditor(target, audit_config(config.seed, attacks={"sima": {"timesteps": [0]}}, geometry=geometry))
    run_ours(estimating, first, config.batch_size)
    influence = seconds_by_stage(run_ours(estimating, pictures, config.batch_size))["geometry"] / samples
    drawing = seconds(lambda: make_draws(config.seed, pictures.ids, target), device) / samples
    denoiser = timed.seconds() / samples
    evaluations = sum(batch.cost.evaluations for batch in batches) / samples
    products = sum(batch.cost.products for batch in batches) / samples
    encode, denoise, forward, backward = (bare[name][0] for name in ("encode", "denoise", "forward", "backward"))
    probing, denoising = PROBES * backward, evaluations * denoise
    distorting = (products - PROBES) / 2 * (forward + backward)
    stages = {stage: total / samples for stage, total in seconds_by_stage(batches).items()}
    whole = sum(stages.values())

    def line(what: str, value: float, bound: float | None = None, note: str = "") -> Line:
        return Line(PART, what, value, SECONDS, share=value / whole, bound=bound, note=note)

    note = "once an auditor: the products' traces, by how much longer its first batch takes; not in what follows"
    yield Line(PART, "start", beginning - again, "s", note=note)
    note = f"{evaluations:g} evaluations, {products:g} products; goal: at most 1.3 times the bound"
    bound = encode + probing + distorting + denoising
    yield Line(PART, "ours", spent, SECONDS, share=1.0, bound=bound, note=note)
    yield line("encode", stages["encode"], encode)
    yield line("influence", influence, probing, f"{PROBES} probes")
    note = "truncated; draws and orthogonalisation included"
    yield line("distortion", stages["geometry"] - influence, distorting, note)
    yield line("denoiser", denoiser, denoising)
    yield line("attacks without denoiser", stages["attacks"] - denoiser, note="noise, statistics, spectra")
    yield line("random draws", drawing, note="part of the stages above")
    return auditor, spent


def published_lines(
    target: Target, pictures: Pictures, config: AuditBenchmarkConfig, auditor: Auditor, ours: float
) -> Iterator[Line]:
    """The published procedure's seconds beside ours a sample, and how far the two agree on these pictures."""
    device = target.alphas_cumprod.device
    draws = published.Draws(**make_draws(config.seed, pictures.ids, target))
    found: list[published.Published] = []
    images = to_images(pictures.pixels, device)
    taken = seconds(lambda: found.append(published.audit(target, images, draws, config.batch_size)), device)
    theirs = taken / len(pictures)
    yield Line(PART, "the published procedure", theirs, SECONDS, note=f"on {len(pictures)} of the samples")
    yield Line(PART, "ours is faster by", theirs / ours, "times", note="goal: at least 6")
    yield from compare(run_ours(auditor, pictures, config.batch_size), found[0])


def run_audit_benchmark(config: AuditBenchmarkConfig) -> Iterator[Line]:
    """Bare models, ours with its stages, the published procedure and how far the two agree; precisions.

    Raises:
        UsageError: The target cannot be loaded, or cuda is asked for if there is no GPU.
    """
    open_device(config.device, threads=1)  # as many as an auditor has
    target = fetch_weights(config.target).load(config.device)
    bare = measure_bare(target, config.repeats)
    yield from bare_lines(bare)
    pictures = demo_pictures(config.samples, target.image_size)
    auditor, ours = yield from our_lines(target, bare, pictures, config)
    yield from published_lines(target, pictures[: config.published], config, auditor, ours)
    half = fetch_weights(config.target).load(config.device, execution=Execution("bfloat16"))
    yield from compare_precisions({"float32": target, "bfloat16": half}, config)
