"""How long the estimators of influence take, and how well their masks agree with the exact one."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from ldm_scale.auditor import products_memory
from ldm_scale.benchmarks.lines import SECONDS, Line
from ldm_scale.benchmarks.options import InfluenceBenchmarkConfig
from ldm_scale.benchmarks.pictures import demo_pictures
from ldm_scale.benchmarks.published import DROP
from ldm_scale.benchmarks.timing import least_seconds
from ldm_scale.geometry.influence import exact_influence, hutchinson_influence, probe_squares
from ldm_scale.geometry.pooled import Profile, pooled_influence
from ldm_scale.geometry.pullback import TracedDecoder, pullback_metric
from ldm_scale.geometry.stability import Estimator, mask_overlap
from ldm_scale.targets.base import Target, to_images
from ldm_scale.targets.weights import fetch_weights

PART = "influence"
HUTCHINSON, POOLED = (2, 4, 8, 16, 64), (2, 4, 8)


def accuracy(
    squares: Float[Tensor, "m n d"], exact: Float[Tensor, "n d"], probes: int, estimate: Estimator
) -> Float[Tensor, " n"]:
    """Overlap of each sample's mask with the exact one, the mean over its m // probes estimates from so many probes."""
    groups = [some for some in squares.split(probes) if len(some) == probes]
    return torch.stack([mask_overlap(estimate(some), exact, DROP) for some in groups]).mean(0)


def with_error(values: Float[Tensor, " n"]) -> tuple[float, float]:
    """Mean and its standard error."""
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()


def profile_of(squares: Float[Tensor, "m n d"], probes: int) -> Profile:
    """The profile of a calibration set, from its samples' first so many probes."""
    return Profile.of(hutchinson_influence(squares[:probes]), probes)


def _latents(target: Target, pixels: Tensor, batch_size: int) -> Float[Tensor, "n c h w"]:
    with torch.no_grad():
        return torch.cat([target.encode(some, None) for some in pixels.split(batch_size)]).contiguous()


def run_influence_benchmark(config: InfluenceBenchmarkConfig) -> Iterator[Line]:
    """Seconds and mask accuracy of Hutchinson and pooled estimates, by their probes, and of the two that compete."""
    target = fetch_weights(config.target).load(config.device)
    if config.device == "cpu":
        torch.set_num_threads(1)  # as many as an auditor has
    device, generator = target.alphas_cumprod.device, torch.Generator().manual_seed(config.seed)
    pictures = demo_pictures(config.samples + config.calibration, target.image_size)
    z = _latents(target, to_images(pictures.pixels, device), config.batch_size)
    judged, others = z[: config.samples], z[config.samples :]

    decoder, memory = TracedDecoder(target.decode), products_memory(config.memory, device)

    def squares(some: Tensor, probes: int) -> Tensor:
        draws = torch.randn(probes, len(some), 3, target.image_size, target.image_size, generator=generator)
        return probe_squares(decoder, some, draws.to(device), memory)

    def in_batches(some: Tensor, probes: int) -> Tensor:
        return torch.cat([squares(few, probes) for few in some.split(config.batch_size)], dim=1)

    exact = torch.cat([exact_influence(pullback_metric(decoder, few, memory)) for few in judged.split(4)])
    found, known = in_batches(judged, max(HUTCHINSON)), in_batches(others, max(POOLED))
    batch = judged[: config.batch_size]

    def lines(name: str, probes: int, estimate: Estimator, overlaps: Tensor) -> Iterator[Line]:
        took = least_seconds(lambda: estimate(squares(batch, probes)), device, config.repeats) / len(batch)
        yield Line(PART, f"{name}, {probes} probes", took, SECONDS)
        mean, error = with_error(overlaps)
        yield Line(PART, f"{name}, {probes} probes: accuracy", mean, note=f"overlap with exact; +- {error:.4f}")

    hutchinson = {k: accuracy(found, exact, k, hutchinson_influence) for k in HUTCHINSON}
    for k, overlaps in hutchinson.items():
        yield from lines("Hutchinson", k, hutchinson_influence, overlaps)
    pooled = {}
    for k in POOLED:
        profile = profile_of(known, k)

        def estimate(some: Tensor, k: int = k, profile: Profile = profile) -> Tensor:
            return pooled_influence(hutchinson_influence(some), profile, k)

        pooled[k] = accuracy(found, exact, k, estimate)
        yield from lines("pooled", k, estimate, pooled[k])
    mean, error = with_error(pooled[4] - hutchinson[8])
    yield Line(PART, "pooled 4 probes - Hutchinson 8", mean, note=f"of accuracy, +- {error:.4f}; goal: not below 0")
