"""How fast the geometry is, beside the plain loops it replaces; the same numbers either way."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ldm_scale.config import GeometryBenchmarkConfig
from ldm_scale.geometry.distortion import exact_distortion
from ldm_scale.geometry.influence import exact_influence, probe_squares
from ldm_scale.geometry.pullback import Decoder, metric
from ldm_scale.targets import fetch_weights


@dataclass(frozen=True)
class Comparison:
    """Seconds an image of one quantity, as the audit computes it and the plain way; and how far the two differ."""

    name: str
    plain: str
    seconds: float
    plain_seconds: float
    difference: float

    @property
    def speedup(self) -> float:
        return self.plain_seconds / self.seconds


def loop_squares(
    decode: Decoder, z: Float[Tensor, "n c h w"], probes: Float[Tensor, "k n 3 H W"]
) -> Float[Tensor, "k n d"]:
    """(J^T v)_i^2, one sample and one probe at a time: what research scripts do."""
    rows = []
    for n in range(len(z)):
        leaf = z[n : n + 1].clone().requires_grad_()
        with torch.enable_grad():
            image = decode(leaf)
        pulled = [torch.autograd.grad(image, leaf, v[n : n + 1], retain_graph=True)[0] for v in probes]
        rows.append(torch.stack(pulled).flatten(1).square())
    return torch.stack(rows, dim=1)


def measure(work: Callable[[], Tensor], images: int, device: torch.device, repeats: int) -> tuple[float, Tensor]:
    """The least seconds an image of several runs, after one that warms up, and the result."""
    result = work()
    best = float("inf")
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return best / images, result


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _separately(decode: Decoder, z: Float[Tensor, "n c h w"], memory: int) -> Float[Tensor, "n e"]:
    influence = exact_influence(metric(decode, z, memory))
    return torch.cat([influence, exact_distortion(metric(decode, z, memory))[:, None]], dim=1)


def _together(decode: Decoder, z: Float[Tensor, "n c h w"], memory: int) -> Float[Tensor, "n e"]:
    metrics = metric(decode, z, memory)
    return torch.cat([exact_influence(metrics), exact_distortion(metrics)[:, None]], dim=1)


def run_benchmark(config: GeometryBenchmarkConfig) -> Iterator[Comparison]:
    """Time batched against looped Hutchinson influence, and one Jacobian against two for exact geometry."""
    target = fetch_weights(config.target).load(config.device)
    device = target.alphas_cumprod.device
    generator = torch.Generator().manual_seed(config.seed)
    z = torch.randn(config.samples, *target.latent_shape, generator=generator).to(device)
    side, memory = target.image_size, config.memory
    probes = torch.randn(config.probes, config.samples, 3, side, side, generator=generator).to(device)

    def compare(
        name: str, plain: str, ours: Callable[[], Tensor], theirs: Callable[[], Tensor], count: int
    ) -> Comparison:
        seconds, found = measure(ours, count, device, config.repeats)
        plain_seconds, expected = measure(theirs, count, device, config.repeats)
        difference = ((found - expected).abs().max() / expected.abs().max()).item()
        return Comparison(name, plain, seconds, plain_seconds, difference)

    yield compare(
        f"Hutchinson influence, {config.probes} probes, D = {z[0].numel()}",
        "a loop over samples and probes",
        lambda: probe_squares(target.decode, z, probes, memory),
        lambda: loop_squares(target.decode, z, probes),
        len(z),
    )
    few = z[: config.exact_samples]
    yield compare(
        f"exact influence and distortion, D = {z[0].numel()}",
        "a Jacobian each",
        lambda: _together(target.decode, few, memory),
        lambda: _separately(target.decode, few, memory),
        len(few),
    )
