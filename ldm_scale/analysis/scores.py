"""The scores that an attack's spectra hold: one for every mask, drop share and timestep."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float


class Mask(StrEnum):
    """Which dimensions a score leaves out."""

    LOWEST = "lowest"  # the paper's: lowest influence
    GLOBAL = "global"  # lowest influence by one ranking for all samples
    RANDOM = "random"  # the first control
    HIGHEST = "highest"  # the second control


@dataclass(frozen=True)
class Candidate:
    """One score of an attack: a mask, a drop share and a timestep, by its place among the attack's."""

    mask: Mask
    drop: float
    step: int


def shares(bins: int) -> list[float]:
    """Every drop share that keeps at least one bin: 0, 1/B, ..., (B - 1)/B."""
    return [dropped / bins for dropped in range(bins)]


def mask_scores(spectra: Float[np.ndarray, "n b"], mask: Mask) -> Iterator[tuple[float, Float[np.ndarray, " n"]]]:
    """Each drop share, most first, with minus the statistic over the kept dimensions; higher means member.

    spectra: of the mask's order, at one timestep. A score is summed from the end that is kept longest, so that it
    depends neither on the shares asked for nor on the samples beside it, to the last bit.
    """
    bins = spectra.shape[1]
    columns = spectra.T if mask is Mask.HIGHEST else spectra.T[::-1]
    scores = np.zeros(len(spectra))
    for drop, column in zip(reversed(shares(bins)), columns, strict=True):
        scores = scores - column
        yield drop, scores


def mask_score(spectra: Float[np.ndarray, "n b"], mask: Mask, drop: float) -> Float[np.ndarray, " n"]:
    """The scores of one drop share."""
    return next(scores for share, scores in mask_scores(spectra, mask) if share <= drop + 1e-9)


def averaged(spectra: Float[np.ndarray, "n t b"]) -> Float[np.ndarray, "n 1 b"]:
    """The mean over all timesteps in place of each of them, as PFAMI's statistic is defined."""
    return spectra.mean(axis=1, keepdims=True, dtype=np.float64)


@runtime_checkable
class AttackRows(Protocol):
    """One attack's rows, sorted by sample id, wherever they are kept.

    timesteps: T of them; None stands for the mean over all of an attack's. bins: B. masks: those with a score.
    """

    @property
    def member(self) -> Bool[np.ndarray, " n"]: ...
    @property
    def timesteps(self) -> tuple[int | None, ...]: ...
    @property
    def bins(self) -> int: ...
    @property
    def masks(self) -> list[Mask]: ...

    def columns(self, candidates: Sequence[Candidate]) -> Float[np.ndarray, "k n"]:
        """Some scores of all samples."""

    def spectrum(self, step: int) -> Float[np.ndarray, "n b"]:
        """The statistic in each bin of influence rank, at one timestep."""
