"""A batch of images in, rows out: composes target, geometry and attacks. Torch only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from ldm_scale.attacks.base import Evaluations
from ldm_scale.attacks.registry import make_attack
from ldm_scale.attacks.spectra import rank_bins, spectrum
from ldm_scale.config import AuditConfig, GeometryConfig
from ldm_scale.geometry.distortion import exact_distortion
from ldm_scale.geometry.influence import exact_influence, hutchinson_influence, probe_squares
from ldm_scale.geometry.pullback import metric
from ldm_scale.randomness import keyed_generator, keyed_normal, keyed_permutation
from ldm_scale.schema import control
from ldm_scale.targets.base import Target, to_images

AUTO_EXACT_DIMENSIONS = 1024


@dataclass(frozen=True)
class AuditedBatch:
    """What was measured of n samples.

    influence: (n, D) float32. distortion: (n,) float32, nan where it was not asked for. spectra: for each attack and
    its random control, (n, T, B) float32. finite: (n,) bool, False for a sample with a number that is not one.
    """

    influence: np.ndarray
    distortion: np.ndarray
    spectra: dict[str, np.ndarray]
    finite: np.ndarray


def measures_distortion(config: GeometryConfig, dimensions: int) -> bool:
    """Whether the configuration asks for distortion at this latent size; auto does up to 1,024 dimensions."""
    return config.distortion == "exact" or (config.distortion == "auto" and dimensions <= AUTO_EXACT_DIMENSIONS)


class Auditor:
    """Audits batches of one target with one configuration; a sample's row does not depend on its batch."""

    def __init__(self, target: Target, config: AuditConfig) -> None:
        self._target = target
        self._config = config
        self._attacks = {name: make_attack(name, options) for name, options in config.attacks.items()}
        self._device = target.alphas_cumprod.device

    def audit(
        self,
        pixels: UInt8[np.ndarray, "n 3 H W"],
        sample_ids: Sequence[str],
        captions: Sequence[str | None],
        labels: Sequence[int | None],
    ) -> AuditedBatch:
        """Measure influence, distortion and every attack's spectra of these samples."""
        z = self._encode(pixels, sample_ids)
        influence, distortion, measured = self._measure(z, sample_ids)
        spectra = self._attack(z, influence, sample_ids, self._target.condition(captions, labels))
        finite = influence.isfinite().all(1) & (distortion.isfinite() | ~measured)
        for values in spectra.values():
            finite &= values.isfinite().flatten(1).all(1)
        return AuditedBatch(
            influence.cpu().numpy(),
            distortion.cpu().numpy(),
            {name: values.cpu().numpy() for name, values in spectra.items()},
            finite.cpu().numpy(),
        )

    def _normal(self, sample_ids: Sequence[str], purpose: str, shape: tuple[int, ...]) -> Float[Tensor, "n ..."]:
        draws = [keyed_normal(self._config.seed, sample_id, purpose, shape) for sample_id in sample_ids]
        return torch.from_numpy(np.stack(draws)).to(self._device)

    def _encode(self, pixels: UInt8[np.ndarray, "n 3 H W"], sample_ids: Sequence[str]) -> Float[Tensor, "n c h w"]:
        images = to_images(pixels, self._device)
        sampled = self._config.latent == "sample"
        noise = self._normal(sample_ids, "latent", self._target.latent_shape) if sampled else None
        with torch.no_grad():
            return self._target.encode(images, noise).contiguous()

    def _measure(
        self, z: Float[Tensor, "n c h w"], sample_ids: Sequence[str]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"], Bool[Tensor, " n"]]:
        """Influence, distortion, and whose distortion was measured; both exact ones share one metric."""
        config, decode = self._config.geometry, self._target.decode
        measured = torch.zeros(len(z), dtype=torch.bool)
        if measures_distortion(config, z[0].numel()):
            draws = [keyed_generator(self._config.seed, key, "distortion").random() for key in sample_ids]
            measured = torch.tensor(draws) < config.distortion_share
        measured = measured.to(z.device)
        distortion = torch.full((len(z),), torch.nan, device=z.device)
        if config.influence == "exact":
            metrics = metric(decode, z, config.memory)
            influence = exact_influence(metrics)
            distortion[measured] = exact_distortion(metrics[measured])
            return influence, distortion, measured
        shape = (config.probes, 3, self._target.image_size, self._target.image_size)
        probes = self._normal(sample_ids, "probes", shape).transpose(0, 1)
        influence = hutchinson_influence(probe_squares(decode, z, probes, config.memory))
        if measured.any():
            distortion[measured] = exact_distortion(metric(decode, z[measured], config.memory))
        return influence, distortion, measured

    def _attack(
        self,
        z: Float[Tensor, "n c h w"],
        influence: Float[Tensor, "n d"],
        sample_ids: Sequence[str],
        condition: object,
    ) -> dict[str, Float[Tensor, "n t b"]]:
        bins = self._config.masks.bins
        orders = [keyed_permutation(self._config.seed, key, "random mask", z[0].numel()) for key in sample_ids]
        by_influence = rank_bins(influence, bins)
        at_random = rank_bins(torch.from_numpy(np.stack(orders)).to(z.device).float(), bins)

        def denoise(x: Tensor, t: int) -> Tensor:
            return self._target.predict_noise(x, t, condition)

        def draw(purpose: str) -> Tensor:
            return self._normal(sample_ids, purpose, self._target.latent_shape)

        spectra: dict[str, Tensor] = {}
        with torch.inference_mode():
            evaluations = Evaluations(z, self._target.alphas_cumprod, denoise, draw)
            for name, attack in self._attacks.items():
                vectors = attack.vectors(evaluations).flatten(2).float()
                spectra[name] = spectrum(vectors, by_influence, attack.p, bins)
                spectra[control(name)] = spectrum(vectors, at_random, attack.p, bins)
        return spectra
