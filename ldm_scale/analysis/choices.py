"""What the headline rows of an attack choose, from the scans of its masks."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from ldm_scale.analysis.adjusted import adjusted_scorer
from ldm_scale.analysis.results import RowName
from ldm_scale.analysis.scan import Scan
from ldm_scale.analysis.scores import AttackRows, Candidate, Mask
from ldm_scale.analysis.splithalf import Scorer, most_often
from ldm_scale.config.audit import AnalysisConfig, dropped_bins

# The regression is fitted on as few as a quarter of the held-out samples: two of these.
GEOMETRY_HELDOUT = 8
# A mask, and how many bins it drops.
Cut = tuple[Mask, int]


def row_cuts(masks: Iterable[Mask], bins: int, dropped: int) -> dict[RowName, list[Cut]]:
    """What each headline row chooses from, at every timestep.

    Args:
        masks: those with a score.
        bins: bins of a spectrum.
        dropped: how many of them the rows of a fixed drop share leave out.

    >>> row_cuts([Mask.LOWEST, Mask.RANDOM, Mask.HIGHEST], bins=20, dropped=8)["lowest"]
    [(<Mask.LOWEST: 'lowest'>, 8)]
    """
    rows: dict[RowName, list[Cut]] = {"plain": [(Mask.LOWEST, 0)], "lowest": [(Mask.LOWEST, dropped)]}
    if Mask.GLOBAL in masks:
        rows["global"] = [(Mask.GLOBAL, dropped)]
    return rows | {
        "random": [(Mask.RANDOM, dropped)],
        "highest": [(Mask.HIGHEST, dropped)],
        "chosen": [(Mask.LOWEST, count) for count in range(bins)] + [(Mask.HIGHEST, n) for n in range(1, bins)],
    }


def chosen_drops(mask: Mask, bins: int, dropped: int) -> set[int]:
    """The numbers of bins that any headline row may drop of a mask; arguments as of `row_cuts`.

    >>> chosen_drops(Mask.LOWEST, bins=4, dropped=2), chosen_drops(Mask.RANDOM, bins=4, dropped=2)
    ({0, 1, 2, 3}, {2})
    """
    cuts = [cut for some in row_cuts([mask], bins, dropped).values() for cut in some]
    return {count for of, count in cuts if of is mask}


@dataclass(frozen=True)
class Choices:
    """What the rows of one attack choose, and every score of all samples that is looked at again.

    timesteps: of the attack. scans: of each mask. cuts: what each row chooses from, at every timestep. picks: the
    candidate that a row chose on each halving. columns: scores, (n,) each. spectrum: the statistic in each bin of
    influence rank at the timestep that the plain row chose most often.
    """

    timesteps: tuple[int | None, ...]
    scans: dict[Mask, Scan]
    cuts: dict[RowName, list[Cut]]
    picks: dict[RowName, Int[np.ndarray, " r"]]
    columns: dict[Candidate, Float[np.ndarray, " n"]]
    spectrum: Float[np.ndarray, "n b"]

    @classmethod
    def of(cls, rows: AttackRows, scans: dict[Mask, Scan], config: AnalysisConfig) -> "Choices":
        """Choose.

        Args:
            rows: of the attack, which are read once more.
            scans: of each mask, over all timesteps.
            config: drop share.

        Raises:
            UsageError: if the drop share is not a whole number of bins.
        """
        cuts = row_cuts(rows.masks, rows.bins, dropped_bins(config.drop, rows.bins))
        picks = {
            row: np.concatenate([scans[mask].choosing[dropped] for mask, dropped in some]).argmax(axis=0)
            for row, some in cuts.items()
        }
        choices = cls(rows.timesteps, scans, cuts, picks, {}, np.empty((0, rows.bins)))
        wanted = {choices.candidates(row)[pick] for row, found in picks.items() for pick in found}
        wanted |= {*map(choices.best, cuts), *choices.candidates("plain")}
        # The place of a candidate that drops nothing is its timestep's.
        scores, spectrum = rows.read([*wanted], most_often(picks["plain"]))
        return cls(rows.timesteps, scans, cuts, picks, dict(zip(wanted, scores, strict=True)), spectrum)

    def candidates(self, row: RowName) -> list[Candidate]:
        """All that a row chooses from."""
        return [Candidate(*cut, step) for cut in self.cuts[row] for step in range(len(self.timesteps))]

    def auroc(self, candidate: Candidate) -> float:
        """The AUROC of a candidate on all samples."""
        return float(self.scans[candidate.mask].grid[candidate.dropped, candidate.step, 0])

    def best(self, row: RowName) -> Candidate:
        """The candidate of a row with the highest AUROC on all samples."""
        return max(self.candidates(row), key=self.auroc)

    def column(self, row: RowName) -> Float[np.ndarray, " n"]:
        """The scores that a row chose on most halvings."""
        return self.columns[self.candidates(row)[most_often(self.picks[row])]]

    def scorers(
        self, geometry: Float[np.ndarray, "n f"], member: Bool[np.ndarray, " n"], seed: int
    ) -> dict[RowName, Scorer]:
        """Who chooses for each row on a halving; the plain statistic, which others are compared with, first.

        Args:
            geometry: features of each sample that its statistic is adjusted by.
            member: who is a member. Of fewer than GEOMETRY_HELDOUT held-out samples nothing is adjusted.
        """
        scorers = {row: self._scorer(row) for row in self.cuts}
        if int((~member).sum()) >= GEOMETRY_HELDOUT:
            plain = [self.columns[candidate] for candidate in self.candidates("plain")]
            scorers["geometry"] = adjusted_scorer(plain, geometry, member, seed)
        return scorers

    def _scorer(self, row: RowName) -> Scorer:
        """What the scan of the choosing halves picked on each halving."""
        candidates, picks = self.candidates(row), self.picks[row]
        return lambda halving, _, report: (int(picks[halving]), self.columns[candidates[picks[halving]]][report])
