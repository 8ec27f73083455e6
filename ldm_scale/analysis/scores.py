"""An attack's spectra, and the score of every mask, drop share and timestep that they hold."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int


class Mask(StrEnum):
    """Which dimensions a score leaves out."""

    LOWEST = "lowest"  # the paper's: lowest influence
    GLOBAL = "global"  # lowest influence by one ranking for all samples
    RANDOM = "random"  # the first control
    HIGHEST = "highest"  # the second control


@dataclass(frozen=True)
class Spectra:
    """One attack's rows, sorted by sample id: statistics in B bins of influence rank, a random order, one ranking.

    member: (n,). by_influence, at_random: (n, T, B); globally likewise, where the run has one ranking for all samples.
    timesteps: T of them; None stands for the mean over all of an attack's.
    """

    member: Bool[np.ndarray, " n"]
    timesteps: tuple[int | None, ...]
    by_influence: Float[np.ndarray, "n t b"]
    at_random: Float[np.ndarray, "n t b"]
    globally: Float[np.ndarray, "n t b"] | None = None

    @property
    def bins(self) -> int:
        return self.by_influence.shape[2]

    @property
    def masks(self) -> list[Mask]:
        """The masks that these rows have a score for."""
        return [mask for mask in Mask if mask is not Mask.GLOBAL or self.globally is not None]

    def shares(self) -> list[float]:
        """Every drop share that keeps at least one bin: 0, 1/B, ..., (B - 1)/B."""
        return [dropped / self.bins for dropped in range(self.bins)]

    def scores(self, mask: Mask, drop: float) -> Float[np.ndarray, "n t"]:
        """Minus the statistic over the kept dimensions; higher means member."""
        dropped = round(drop * self.bins)
        kept = slice(self.bins - dropped) if mask is Mask.HIGHEST else slice(dropped, None)
        return -self._of(mask)[:, :, kept].sum(axis=2, dtype=np.float64)

    def _of(self, mask: Mask) -> Float[np.ndarray, "n t b"]:
        if mask is Mask.GLOBAL:
            assert self.globally is not None
            return self.globally
        return self.at_random if mask is Mask.RANDOM else self.by_influence

    def take(self, rows: Int[np.ndarray, " m"] | Bool[np.ndarray, " n"]) -> "Spectra":
        """The same of some samples."""
        return self._changed(lambda spectra: spectra[rows], member=self.member[rows])

    def averaged(self) -> "Spectra":
        """The mean over all timesteps in place of each of them, as PFAMI's statistic is defined."""
        return self._changed(lambda spectra: spectra.mean(axis=1, keepdims=True, dtype=np.float64), timesteps=(None,))

    def _changed(self, change: Callable[[np.ndarray], np.ndarray], **others: Any) -> "Spectra":
        globally = None if self.globally is None else change(self.globally)
        return replace(
            self, by_influence=change(self.by_influence), at_random=change(self.at_random), globally=globally, **others
        )
