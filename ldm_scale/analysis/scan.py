"""Every score of a spectrum, looked at once: its metrics on all samples, and its AUROC on every choosing half."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from ldm_scale.analysis.metrics import NAMES, Roc
from ldm_scale.analysis.scores import Mask, mask_scores


@dataclass(frozen=True)
class Scan:
    """What a mask's scores reach, by the number q of dropped bins (0 to B - 1) and the timestep.

    grid: metrics of NAMES on all samples. choosing: the AUROC on each halving's choosing half, NaN for numbers of bins
    that no row chooses from.
    """

    grid: Float[np.ndarray, "q t 5"]
    choosing: Float[np.ndarray, "q t r"]


def scan(
    spectra: Float[np.ndarray, "n t b"],
    mask: Mask,
    member: Bool[np.ndarray, " n"],
    chosen: Bool[np.ndarray, "r n"],
    drops: Collection[int],
) -> Scan:
    """Every score of a mask, one at a time.

    Args:
        spectra: in the mask's order.
        mask: which end of it is dropped.
        member: who is a member.
        chosen: the samples of each halving's choosing half.
        drops: the numbers of dropped bins that rows choose from.
    """
    steps, bins = spectra.shape[1:]
    grid = np.empty((bins, steps, len(NAMES)))
    choosing = np.full((bins, steps, len(chosen)), np.nan)
    for step in range(steps):
        # Bins first: each is added to all samples at once.
        ordered = np.ascontiguousarray(spectra[:, step].T).T
        for dropped, scores in mask_scores(ordered, mask):
            roc = Roc(scores, member)
            grid[dropped, step] = roc.curve().all()[0]
            if dropped in drops:
                choosing[dropped, step] = roc.aurocs(chosen)
    return Scan(grid, choosing)


def join(scans: Sequence[Scan]) -> Scan:
    """The scans of successive timesteps as one."""
    return Scan(np.concatenate([s.grid for s in scans], axis=1), np.concatenate([s.choosing for s in scans], axis=1))
