"""One short trial of a target: what it is, whether its numbers are finite, and whether its parts belong together."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8

from ldm_scale.device.draws import keyed_normal
from ldm_scale.targets.base import Target, to_images

# Halfway up the schedule, where a denoiser that knows its latents predicts most of the noise.
SHARE = 0.5
# A mean squared error of predicted noise that says nothing: 1 is that of a denoiser that predicts none.
NOTHING = 0.9


@dataclass(frozen=True)
class Trial:
    """A target, what it is and did, as lines to read, and what is wrong with it, if anything."""

    target: Target
    facts: tuple[str, ...]
    problems: tuple[str, ...]

    def refused(self, conditions: Mapping[tuple[bool, int | None], int]) -> Counter[str]:
        """Samples that the target cannot take, by reason; `conditions` counts them by (has a caption, class)."""
        reasons: Counter[str] = Counter()
        for (captioned, label), count in conditions.items():
            if reason := self.target.refusal("a caption" if captioned else None, label):
                reasons[reason] += count
        return reasons


def describe(target: Target) -> str:
    """Its family, the size of its images and latents, and the length of its schedule, in words."""
    channels, height, width = target.latent_shape
    return (
        f"{type(target).__name__}: {target.image_size} px images, {channels} x {height} x {width} latents "
        f"({channels * height * width:,} dimensions), {len(target.alphas_cumprod)} timesteps"
    )


@torch.inference_mode()
def try_target(
    target: Target,
    images: Sequence[UInt8[np.ndarray, "3 H W"]],
    captions: Sequence[str | None],
    labels: Sequence[int | None],
    seed: int,
) -> Trial:
    """Encode, decode and denoise these images, as far as the target takes them.

    The facts are the reconstruction's mean absolute error (of a range of 2), the scaled latents' standard deviation
    (about 1 if the scaling factor is right) and the mean squared error of the noise predicted half-way up the schedule
    (1 for a denoiser that predicts nothing, far less if latents, schedule and condition are right).

    Args:
        target: with weights, not on the device "meta".
        images: pixels 0 to 255, of the target's image size.
        captions: of each image; None if it has none.
        labels: class index of each image; None if it has none.
        seed: of the noise.
    """
    kept = [i for i, pair in enumerate(zip(captions, labels, strict=True)) if target.refusal(*pair) is None]
    if not kept:
        return Trial(target, (describe(target),), ())
    x = to_images(np.stack([images[i] for i in kept]), target.alphas_cumprod.device)
    z = target.encode(x, None)
    error = (target.decode(z) - x).abs().mean().item()
    t = int(len(target.alphas_cumprod) * SHARE)
    abar = target.alphas_cumprod[t]
    noise = keyed_normal(seed, [str(i) for i in kept], "trial", target.latent_shape, z.device).to(z)
    condition = target.condition([captions[i] for i in kept], [labels[i] for i in kept])
    predicted = target.predict_noise(
        abar.sqrt() * z + (1 - abar).sqrt() * noise, torch.full((len(z),), t, device=z.device), condition
    )
    squared = (predicted - noise).square().mean().item()
    facts: tuple[str, ...] = (
        describe(target),
        f"  {len(kept)} images: mean error of reconstruction {error:.3f} of 2, standard deviation of the scaled "
        f"latents {z.std().item():.2f}, mean squared error of predicted noise at t = {t} {squared:.3f} (1 says "
        "nothing)",
    )
    if squared >= NOTHING:
        facts += (
            "  warning: the denoiser says nothing of the noise: it is not trained, or its weights, the autoencoder's "
            "scaling factor and the schedule's prediction_type do not belong together; check the target's folder",
        )
    finite = np.isfinite([error, squared]).all() and bool(z.isfinite().all())
    return Trial(target, facts, () if finite else (f"{type(target).__name__} gives numbers that are not finite",))
