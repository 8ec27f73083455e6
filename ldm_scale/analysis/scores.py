"""An attack's spectra, and the score of every mask, drop share and timestep that they hold."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Bool, Float, Int


class Mask(StrEnum):
    """Which dimensions a score leaves out."""

    LOWEST = "lowest"  # the paper's: lowest influence
    RANDOM = "random"  # the first control
    HIGHEST = "highest"  # the second control


@dataclass(frozen=True)
class Spectra:
    """One attack's rows, sorted by sample id: statistics in B bins of influence rank, and of a random order.

    member: (n,). by_influence, at_random: (n, T, B). timesteps: T of them.
    """

    member: Bool[np.ndarray, " n"]
    timesteps: tuple[int, ...]
    by_influence: Float[np.ndarray, "n t b"]
    at_random: Float[np.ndarray, "n t b"]

    @property
    def bins(self) -> int:
        return self.by_influence.shape[2]

    def shares(self) -> list[float]:
        """Every drop share that keeps at least one bin: 0, 1/B, ..., (B - 1)/B."""
        return [dropped / self.bins for dropped in range(self.bins)]

    def scores(self, mask: Mask, drop: float) -> Float[np.ndarray, "n t"]:
        """Minus the statistic over the kept dimensions; higher means member."""
        dropped = round(drop * self.bins)
        if mask is Mask.HIGHEST:
            kept = self.by_influence[:, :, : self.bins - dropped]
        else:
            kept = (self.at_random if mask is Mask.RANDOM else self.by_influence)[:, :, dropped:]
        return -kept.sum(axis=2, dtype=np.float64)

    def take(self, rows: Int[np.ndarray, " m"] | Bool[np.ndarray, " n"]) -> "Spectra":
        """The same of some samples."""
        return Spectra(self.member[rows], self.timesteps, self.by_influence[rows], self.at_random[rows])
