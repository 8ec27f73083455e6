"""Every score of a spectrum, looked at once: its metrics on all samples, and its AUROC on some of them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float

from ldm_scale.analysis.metrics import NAMES
from ldm_scale.analysis.ranks import Ranks, Subsets
from ldm_scale.analysis.scores import Mask, mask_scores


@dataclass(frozen=True)
class Scan:
    """What a mask's scores reach, by the number q of dropped bins (0 to B - 1) and the timestep.

    grid: metrics of NAMES on all samples. choosing: the AUROC on each halving's choosing half. strict: the share of
    held-out samples found while fewer than 1% of members are misjudged. groups: the AUROC in each group of samples;
    NaN if one side of it is empty. All but the grid: NaN for numbers of bins that were not asked for.
    """

    grid: Float[np.ndarray, "q t 5"]
    choosing: Float[np.ndarray, "q t r"]
    strict: Float[np.ndarray, "q t"]
    groups: Float[np.ndarray, "q t g"]


def scan(
    spectra: Float[np.ndarray, "n t b"],
    mask: Mask,
    member: Bool[np.ndarray, " n"],
    chosen: Bool[np.ndarray, "r n"],
    drops: Collection[int],
    groups: Bool[np.ndarray, "g n"],
    fixed: Collection[int],
) -> Scan:
    """Every score of a mask, one at a time.

    Args:
        spectra: in the mask's order.
        mask: which end of it is dropped.
        chosen: the samples of each halving's choosing half.
        drops: the numbers of dropped bins that rows choose from.
        groups: the samples of each group.
        fixed: those of them whose score is also looked at strictly, and in each group.
    """
    steps, bins = spectra.shape[1:]
    grid = np.empty((bins, steps, len(NAMES)))
    choosing = np.full((bins, steps, len(chosen)), np.nan)
    strict = np.full((bins, steps), np.nan)
    grouped = np.full((bins, steps, len(groups)), np.nan)
    both = (groups & member).any(axis=1) & (groups & ~member).any(axis=1)
    halves, inside = Subsets(chosen), Subsets(groups[both])
    for step in range(steps):
        # Bins first, if they are not: each is added to all samples at once.
        ordered = np.ascontiguousarray(spectra[:, step].T).T
        for dropped, scores in mask_scores(ordered, mask):
            ranks = Ranks(scores, member)
            grid[dropped, step] = ranks.metrics()
            if dropped not in drops:
                continue
            choosing[dropped, step] = ranks.aurocs(halves)
            if dropped in fixed:
                strict[dropped, step] = ranks.paper_tpr_below(0.01)
                grouped[dropped, step, both] = ranks.aurocs(inside)
    return Scan(grid, choosing, strict, grouped)


def join(scans: Sequence[Scan]) -> Scan:
    """The scans of successive timesteps as one."""
    return Scan(*(np.concatenate([getattr(s, field.name) for s in scans], axis=1) for field in fields(Scan)))
