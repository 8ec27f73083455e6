"""How long the estimators of influence take, and how well their masks and distortions agree with the exact ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ldm_scale.auditor import products_memory
from ldm_scale.benchmarks.lines import SECONDS, Line
from ldm_scale.benchmarks.options import InfluenceBenchmarkConfig
from ldm_scale.benchmarks.pictures import demo_pictures
from ldm_scale.benchmarks.published import DROP
from ldm_scale.benchmarks.timing import least_seconds, open_device
from ldm_scale.geometry.distortion import exact_distortion
from ldm_scale.geometry.influence import exact_influence, hutchinson_influence, probe_squares
from ldm_scale.geometry.kernels import in_bfloat16
from ldm_scale.geometry.pooled import Profile, mean_profile, pooled_influence
from ldm_scale.geometry.pullback import Decoder, TracedDecoder, pullback_metric
from ldm_scale.geometry.stability import Estimator, mask_overlap, rank_correlation
from ldm_scale.targets.base import Target, to_images
from ldm_scale.targets.weights import fetch_weights

PART = "influence"
HUTCHINSON, POOLED = (2, 4, 8, 16, 64), (1, 2, 4, 8)
# What the paper takes, and of which the cheapest estimator is to be the equal.
PAPER = 8
# Samples whose columns of J are computed at once.
COLUMNS = 4
OVERLAP, DIFFERENCE = "overlap with exact;", "of accuracy, goal: not below 0;"


def groups(squares: Float[Tensor, "m n d"], probes: int, estimate: Estimator) -> list[Float[Tensor, "n d"]]:
    """The m // probes estimates from so many probes each."""
    return [estimate(some) for some in squares.split(probes) if len(some) == probes]


def accuracy(found: list[Float[Tensor, "n d"]], exact: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Overlap of each sample's mask with the exact one, the mean over several estimates."""
    return torch.stack([mask_overlap(one, exact, DROP) for one in found]).mean(0)


def distortion_correlation(found: list[Float[Tensor, "n d"]], exact: Float[Tensor, " n"]) -> float:
    """Spearman's rho over samples of the sum of their influences and the exact distortion, the mean over estimates."""
    return torch.stack([rank_correlation(one.sum(1)[None], exact[None]) for one in found]).mean().item()


def pooled_estimator(squares: Float[Tensor, "m n d"], probes: int, shape: tuple[int, ...]) -> Estimator:
    """The pooled estimator from so many probes, by the profile that twice as many of a calibration set give."""
    first, second = (hutchinson_influence(some).unflatten(1, shape) for some in squares[: 2 * probes].split(probes))
    profile = Profile.of(first, second, probes)
    return lambda some: pooled_influence(hutchinson_influence(some), profile)


@dataclass(frozen=True)
class _Bench:
    """The latents of some pictures and of a calibration set, and the probes of the first."""

    config: InfluenceBenchmarkConfig
    target: Target
    decoder: TracedDecoder
    judged: Float[Tensor, "n c h w"]
    others: Float[Tensor, "k c h w"]
    generator: torch.Generator

    @cached_property
    def probes(self) -> Float[Tensor, "m n 3 H W"]:
        return self._draw(max(HUTCHINSON), len(self.judged))

    def _draw(self, probes: int, samples: int) -> Float[Tensor, "m n 3 H W"]:
        side = self.target.image_size
        return torch.randn(probes, samples, 3, side, side, generator=self.generator).to(self.judged.device)

    def squares(self, decoder: Decoder, z: Float[Tensor, "n c h w"], probes: Tensor) -> Float[Tensor, "m n d"]:
        memory, size = products_memory(self.config.memory, z.device), self.config.batch_size
        parts = zip(z.split(size), probes.split(size, dim=1), strict=True)
        return torch.cat([probe_squares(decoder, some, draws, memory) for some, draws in parts], dim=1)

    def known(self, probes: int) -> Float[Tensor, "m k d"]:
        """Of the calibration set."""
        return self.squares(self.decoder, self.others, self._draw(probes, len(self.others)))

    def exact(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """Influences and distortions of the judged pictures."""
        memory = products_memory(self.config.memory, self.judged.device)
        influences, distortions = [], []
        for some in self.judged.split(COLUMNS):
            metric = pullback_metric(self.decoder, some, memory)
            influences.append(exact_influence(metric))
            distortions.append(exact_distortion(metric))
        return torch.cat(influences), torch.cat(distortions)

    def seconds(self, probes: int, estimate: Estimator) -> float:
        """Of a sample's estimate, in batches."""
        size = self.config.batch_size
        z, draws = self.judged[:size], self.probes[:probes, :size]
        once = least_seconds(lambda: estimate(self.squares(self.decoder, z, draws)), z.device, self.config.repeats)
        return once / len(z)


def _begin(config: InfluenceBenchmarkConfig) -> _Bench:
    open_device(config.device, threads=1)  # as many as an auditor has
    target = fetch_weights(config.target).load(config.device)
    pictures = demo_pictures(config.samples + config.calibration, target.image_size, config.shards)
    images = to_images(pictures.pixels, target.alphas_cumprod.device)
    with torch.no_grad():
        z = torch.cat([target.encode(some, None) for some in images.split(config.batch_size)]).contiguous()
    generator = torch.Generator().manual_seed(config.seed)
    return _Bench(config, target, TracedDecoder(target.decode), z[: config.samples], z[config.samples :], generator)


def run_influence_benchmark(config: InfluenceBenchmarkConfig) -> Iterator[Line]:
    """Seconds, masks and distortions of Hutchinson and pooled estimates, by their probes, and by precision."""
    bench = _begin(config)
    exact, distortion = bench.exact()
    found, known = bench.squares(bench.decoder, bench.judged, bench.probes), bench.known(2 * max(POOLED))
    estimators: dict[tuple[str, int], Estimator] = {("Hutchinson", k): hutchinson_influence for k in HUTCHINSON}
    estimators |= {("pooled", k): pooled_estimator(known, k, bench.others.shape[1:]) for k in POOLED}
    overlaps: dict[tuple[str, int], Tensor] = {}
    for (name, k), estimate in estimators.items():
        estimates = groups(found, k, estimate)
        overlaps[name, k] = accuracy(estimates, exact)
        yield Line(PART, f"{name}, {k} probes", bench.seconds(k, estimate), SECONDS)
        yield _mean(f"{name}, {k} probes: accuracy", overlaps[name, k], OVERLAP)
        correlation = distortion_correlation(estimates, distortion)
        yield Line(PART, f"{name}, {k} probes: bound", correlation, note="its rank correlation with distortion")
    mean = mean_profile(hutchinson_influence(known)).expand_as(exact)
    yield _mean("calibration set alone: accuracy", accuracy([mean], exact), OVERLAP)
    correlation = distortion_correlation([exact], distortion)
    yield Line(PART, "exact influence: bound", correlation, note="its rank correlation with distortion")
    paper = overlaps["Hutchinson", PAPER]
    for k in POOLED:
        yield _mean(f"pooled {k} probes - Hutchinson {PAPER}", overlaps["pooled", k] - paper, DIFFERENCE)
    lower = bench.squares(TracedDecoder(in_bfloat16(bench.target.decode)), bench.judged, bench.probes[: 2 * PAPER])
    for name, k in (("pooled", 2), ("Hutchinson", PAPER)):
        estimate = estimators[name, k]
        both = [accuracy(groups(some[: 2 * PAPER], k, estimate), exact) for some in (lower, found)]
        yield _mean(f"{name}, {k} probes: bfloat16 - float32", both[0] - both[1], DIFFERENCE)


def _mean(what: str, values: Float[Tensor, " n"], note: str) -> Line:
    """The mean over samples, and behind the note its standard error."""
    error = (values.std() / len(values) ** 0.5).item()
    return Line(PART, what, values.mean().item(), note=f"{note} +- {error:.4f}")
