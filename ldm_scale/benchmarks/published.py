"""The published audit as its scripts run it, transcribed from the method's definitions, to measure `ldm_scale` against.

One pass over the images for each attack and each mask; a pass encodes them anew, in batches, and asks the denoiser
timestep by timestep. Influence and distortion come first, once a sample, in loops over samples and vectors, and are
kept for the passes, as the scripts save them to disk. Nothing of ldm_scale is used: a target is anything with encode,
decode, predict_noise and alphas_cumprod. Every random draw is handed in, so that both ways have the same.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TIMESTEPS = tuple(range(0, 200, 10))
STEP = 10
DROP = 0.4
RANK, OVERSAMPLING, POWER_ITERATIONS = 20, 30, 2


@dataclass(frozen=True)
class Draws:
    """The random draws of n samples.

    probes: N(0, I) in image space, (n, K, 3, H, W). tangents: N(0, I) in latent space, (n, RANK + OVERSAMPLING, c, h,
    w). noise: Loss's N(0, I), one a timestep, (T, n, c, h, w). order: a random rank of each dimension, (n, D).
    """

    probes: Tensor
    tangents: Tensor
    noise: Tensor
    order: Tensor


@dataclass(frozen=True)
class Published:
    """influence (n, D), distortion (n,), and the statistics (n, T) of each attack under each mask."""

    influence: Tensor
    distortion: Tensor
    statistics: dict[tuple[str, str], Tensor]


def influence(decode: Callable[[Tensor], Tensor], z: Tensor, probes: Tensor) -> Tensor:
    """c_i = 0.5 log G_ii of one latent (1, c, h, w), diag G = E[(J^T v)^2] over K probes, the log's bias removed; (D,).

    One forward pass, then one vector-Jacobian product after the other.
    """
    z = z.detach().requires_grad_()
    image = decode(z)
    total = torch.zeros_like(z)
    for probe in probes:
        (product,) = torch.autograd.grad(image, z, probe[None], retain_graph=True)
        total += product**2
    half = torch.tensor(len(probes) / 2, dtype=torch.float64)
    bias = 0.5 * (torch.digamma(half) - torch.log(half)).item()
    return 0.5 * torch.log(total.flatten() / len(probes) + 1e-12) - bias


def distortion(decode: Callable[[Tensor], Tensor], z: Tensor, tangents: Tensor) -> Tensor:
    """The sum of the RANK largest log singular values of J at one latent (1, c, h, w), by randomized SVD; a scalar.

    Halko et al. 2011, algorithm 4.4, from the Gaussian `tangents`; one product with J or J^T after the other.
    """
    image, pull, *_ = torch.func.vjp(decode, z)

    def forward(columns: Tensor) -> Tensor:
        pushed = [torch.func.jvp(decode, (z,), (column.reshape(z.shape),))[1].flatten() for column in columns.T]
        return torch.stack(pushed, dim=1)

    def backward(columns: Tensor) -> Tensor:
        return torch.stack([pull(column.reshape(image.shape))[0].flatten() for column in columns.T], dim=1)

    def orthonormal(columns: Tensor) -> Tensor:
        return torch.linalg.qr(columns).Q

    basis = orthonormal(forward(tangents.flatten(1)[: z.numel()].T))
    for _ in range(POWER_ITERATIONS):
        basis = orthonormal(forward(orthonormal(backward(basis))))
    return torch.linalg.svdvals(backward(basis))[:RANK].log().sum()


# An attack: the denoiser (x, t) -> eps, latents, abar and Loss's noise; the vectors S_t come timestep by timestep.
Denoiser = Callable[[Tensor, int], Tensor]
PublishedAttack = Callable[[Denoiser, Tensor, list[float], Tensor], Iterator[Tensor]]


def mixed(z: Tensor, e: Tensor, abar: float) -> Tensor:
    """sqrt(abar) z + sqrt(1 - abar) e."""
    return math.sqrt(abar) * z + math.sqrt(1 - abar) * e


def sima(eps: Denoiser, z: Tensor, abar: list[float], noise: Tensor) -> Iterator[Tensor]:
    """eps(z, t)."""
    for t in TIMESTEPS:
        yield eps(z, t)


def pia(eps: Denoiser, z: Tensor, abar: list[float], noise: Tensor) -> Iterator[Tensor]:
    """e0 - eps(mixed(z, e0), t), e0 = eps(z, 0)."""
    e0 = eps(z, 0)
    for t in TIMESTEPS:
        yield e0 - eps(mixed(z, e0, abar[t]), t)


def loss(eps: Denoiser, z: Tensor, abar: list[float], noise: Tensor) -> Iterator[Tensor]:
    """e - eps(mixed(z, e), t)."""
    for e, t in zip(noise, TIMESTEPS, strict=True):
        yield e - eps(mixed(z, e, abar[t]), t)


def secmi(eps: Denoiser, z: Tensor, abar: list[float], noise: Tensor) -> Iterator[Tensor]:
    """y_t - x_t: along the DDIM inversion, one step there and one step back, with an evaluation for each."""

    def step(x: Tensor, here: int, there: int) -> Tensor:
        e = eps(x, here)
        clean = (x - math.sqrt(1 - abar[here]) * e) / math.sqrt(abar[here])
        return mixed(clean, e, abar[there])

    x = z
    for t in TIMESTEPS:
        ahead = step(x, t, t + STEP)
        yield step(ahead, t + STEP, t) - x
        x = ahead


ATTACKS: dict[str, tuple[PublishedAttack, float]] = {
    "sima": (sima, 4),
    "pia": (pia, 4),
    "loss": (loss, 4),
    "secmi": (secmi, 2),
}


def kept(scores: Tensor) -> Tensor:
    """1 at all dimensions but the DROP lowest of each row, else 0; (n, D)."""
    dropped = math.ceil(DROP * scores.shape[1])
    lowest = scores.argsort(dim=1, stable=True)[:, :dropped]
    return torch.ones(scores.shape, device=scores.device).scatter_(1, lowest, 0.0)


def run_pass(
    target: Any, images: Tensor, attack: PublishedAttack, p: float, mask: Tensor, noise: Tensor, batch_size: int
) -> Tensor:
    """sum over kept dimensions of |S_t|^p for each sample and timestep, (n, T): one pass over the images."""
    abar = target.alphas_cumprod.tolist()

    def eps(x: Tensor, t: int) -> Tensor:
        return target.predict_noise(x, torch.full((len(x),), t, device=x.device), None)

    rows = []
    for start in range(0, len(images), batch_size):
        some = slice(start, start + batch_size)
        z = target.encode(images[some], None)
        vectors = attack(eps, z, abar, noise[:, some])
        rows.append(torch.stack([(s.flatten(1).abs() ** p * mask[some]).sum(1) for s in vectors], dim=1))
    return torch.cat(rows)


def audit(target: Any, images: Tensor, draws: Draws, batch_size: int) -> Published:
    """All of it, for images (n, 3, H, W) in [-1, 1] and an unconditional target."""
    influences, distortions = [], []
    for image, probes, tangents in zip(images, draws.probes, draws.tangents, strict=True):
        with torch.no_grad():
            z = target.encode(image[None], None)
        influences.append(influence(target.decode, z, probes))
        distortions.append(distortion(target.decode, z, tangents).detach())
    scores = torch.stack(influences)
    masks = {"plain": torch.ones_like(scores), "lowest": kept(scores), "random": kept(draws.order)}
    with torch.no_grad():
        statistics = {
            (name, mask): run_pass(target, images, attack, p, keep, draws.noise, batch_size)
            for name, (attack, p) in ATTACKS.items()
            for mask, keep in masks.items()
        }
    return Published(scores, torch.stack(distortions), statistics)
