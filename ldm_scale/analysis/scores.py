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
    RANDOM = "random"  # the first control: the upper end of a random order
    HIGHEST = "highest"  # the second control


# Those that drop the upper end of their order; the others drop the lower one.
UPPER = (Mask.RANDOM, Mask.HIGHEST)


@dataclass(frozen=True)
class Candidate:
    """One score of an attack.

    dropped: how many bins of the mask's order are left out. step: the timestep's place among the attack's.
    """

    mask: Mask
    dropped: int
    step: int


def mask_scores(spectra: Float[np.ndarray, "n b"], mask: Mask) -> Iterator[tuple[int, Float[np.ndarray, " n"]]]:
    """How many bins are dropped, most first, with the score: minus the statistic over the kept ones (higher: member).

    A score is summed from the end that is kept longest, so that it depends neither on the numbers asked for nor on the
    samples beside it, to the last bit. Of k of B bins and D dimensions, the lower end holds ceil(k D / B) and the upper
    end floor(k D / B): the random control leaves out floor(q D), as the paper's does.

    Args:
        spectra: in the mask's order, at one timestep.
        mask: which end is dropped.

    Returns:
        Pairs for B - 1 dropped bins down to none: at least one bin is kept. The scores take the place of those before.

    >>> spectra = np.array([[1.0, 2.0, 4.0]])
    >>> [(dropped, scores.item()) for dropped, scores in mask_scores(spectra, Mask.LOWEST)]
    [(2, -4.0), (1, -6.0), (0, -7.0)]
    >>> [(dropped, scores.item()) for dropped, scores in mask_scores(spectra, Mask.HIGHEST)]
    [(2, -1.0), (1, -3.0), (0, -7.0)]
    """
    columns = spectra.T if mask in UPPER else spectra.T[::-1]
    scores = np.zeros(len(spectra))
    for dropped, column in zip(reversed(range(spectra.shape[1])), columns, strict=True):
        scores -= column
        yield dropped, scores


def mask_score(spectra: Float[np.ndarray, "n b"], mask: Mask, dropped: int) -> Float[np.ndarray, " n"]:
    """The scores with so many bins dropped (0 to B - 1); arguments as of `mask_scores`."""
    return next(scores for count, scores in mask_scores(spectra, mask) if count == dropped)


def log_statistics(scores: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The log of the statistic, of which a score is minus; finite also of a statistic of 0.

    >>> log_statistics(np.array([-1.0, -4.0])).round(3)
    array([0.   , 1.386])
    """
    return np.log(np.maximum(-scores, np.finfo(np.float64).tiny))


def averaged(spectra: Float[np.ndarray, "n t b"]) -> Float[np.ndarray, "n 1 b"]:
    """The mean over all timesteps in place of each of them, as PFAMI's statistic is defined (Fu et al., 2023).

    >>> averaged(np.array([[[1.0, 2.0], [3.0, 4.0]]]))
    array([[[2., 3.]]])
    """
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

    def read(
        self, candidates: Sequence[Candidate], step: int
    ) -> tuple[Float[np.ndarray, "k n"], Float[np.ndarray, "n b"]]:
        """The scores of k candidates, of all samples; and the statistic in each bin of influence rank at one timestep.

        In one call, as the rows may be much to read.
        """
