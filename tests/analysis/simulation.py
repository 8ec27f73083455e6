"""Simulated rows: lognormal spectra of two attacks that depend on each sample's geometry, with or without a signal."""

from dataclasses import dataclass

import numpy as np

from ldm_scale.analysis.adjusted import geometry_features

STEPS, BINS = 3, 4
# How the samples differ when membership means nothing.
STRUCTURES: dict[str, dict[str, float]] = {
    "independent": {},
    "shared": {"shared": 0.7},
    "geometry": {"shared": 0.4, "geometry": 1.0},
    "heavy": {"shared": 0.4, "geometry": 0.5, "freedom": 3},
}


@dataclass(frozen=True)
class Simulated:
    """member (n,), two spectra (n, T, B), geometry features (n, 3)."""

    member: np.ndarray
    spectra: list[np.ndarray]
    geometry: np.ndarray

    @property
    def log_statistics(self) -> np.ndarray:
        return np.log(self.spectra[0].sum(axis=2))

    @property
    def candidates(self) -> np.ndarray:
        """The scores of every attack, timestep and share of lowest or highest bins dropped."""
        lowest = [-s[:, :, drop:].sum(axis=2) for s in self.spectra for drop in range(BINS)]
        highest = [-s[:, :, :-drop].sum(axis=2) for s in self.spectra for drop in range(1, BINS)]
        return np.concatenate(lowest + highest, axis=1)


def simulate(
    seed: int, count: int = 120, shared: float = 0.0, geometry: float = 0.0, freedom: float = np.inf, signal: float = 0
) -> Simulated:
    """Log spectra = geometry's part + a level of the sample, one of the timestep, and noise of each bin.

    Members are lower by `signal` in the upper bins of timestep 1.
    """
    rng = np.random.default_rng([seed, 1])
    member = rng.permutation(np.arange(count) % 2 == 0)
    latent = rng.standard_normal((count, 3))

    def noise(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape) if np.isinf(freedom) else rng.standard_t(freedom, shape)

    spectra = []
    for _ in range(2):
        log = geometry * latent.sum(axis=1)[:, None, None] + shared * (noise(count, 1, 1) + noise(count, STEPS, 1))
        log = log + 0.4 * noise(count, STEPS, BINS)
        log[:, 1, BINS // 2 :] -= signal * member[:, None]
        spectra.append(np.exp(log))
    mean, spread, distortion = latent.T
    return Simulated(member, spectra, geometry_features(mean, 1 + spread / 10, 100 + 10 * distortion))
