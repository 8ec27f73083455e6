"""Everything the results say of one attack: headline rows, curves and the full grid."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from scipy.stats import beta

from ldm_scale.analysis.adjusted import adjusted_scorer
from ldm_scale.analysis.delong import delong
from ldm_scale.analysis.groups import Group, distortion_groups
from ldm_scale.analysis.metrics import NAMES, Roc, bootstrap, evaluate
from ldm_scale.analysis.paper import paper_row
from ldm_scale.analysis.results import (
    BinPoint,
    Choice,
    DistortionGroup,
    Estimate,
    Headline,
    HeldoutChoice,
    MetricSet,
    PaperRow,
    PaperRowName,
    Point,
    RocPoint,
    RowName,
    ScoredSample,
    is_trusted,
)
from ldm_scale.analysis.scan import Scan
from ldm_scale.analysis.scores import AttackRows, Candidate, Mask
from ldm_scale.analysis.splithalf import Judged, Scorer, halves, judge, most_often, reported
from ldm_scale.config.audit import AnalysisConfig, dropped_bins

RISKY = 10
ROC_POINTS = 200
# The regression is fitted on as few as a quarter of the held-out samples: two of these.
GEOMETRY_HELDOUT = 8


@dataclass(frozen=True)
class AttackSummary:
    """The parts of Results that come from one attack, and its rows of metrics.parquet."""

    headline: list[Headline]
    paper: list[PaperRow]
    by_timestep: list[Point]
    by_drop: list[Point]
    by_bin: list[BinPoint]
    by_distortion: list[DistortionGroup]
    roc: list[RocPoint]
    at_risk: list[ScoredSample]
    highest_heldout: list[ScoredSample]
    grid: pa.Table


def share_bound(count: int, total: int, confidence: float = 0.95) -> float:
    """The share above which `count` of `total` or fewer are seen with a chance of 1 - confidence (Clopper & Pearson).

    >>> round(share_bound(0, 150), 4)  # (1 - 0.0198)^150 = 0.05
    0.0198
    """
    return float(beta.ppf(confidence, count + 1, total - count)) if count < total else 1.0


def heldout_above(
    scores: Float[np.ndarray, " n"], member: Bool[np.ndarray, " n"], rows: Int[np.ndarray, " k"]
) -> Int[np.ndarray, " k"]:
    """How many held-out samples have a higher score than each of some samples, given by their places.

    >>> heldout_above(np.array([3.0, 2.0, 5.0, 2.0]), np.array([True, True, False, False]), np.array([0, 1]))
    array([1, 1])
    """
    heldout = np.sort(scores[~member])
    return len(heldout) - np.searchsorted(heldout, scores[rows], side="right")


# A mask, and how many bins it drops.
Cut = tuple[Mask, int]


def estimate(value: float, bounds: Float[np.ndarray, " 2"]) -> Estimate:
    """A value with the bounds (low, high) of its interval."""
    return Estimate(value=value, low=bounds[0], high=bounds[1])


def as_metric_set(values: Float[np.ndarray, " 5"], intervals: Float[np.ndarray, "5 2"]) -> MetricSet:
    """The metrics of NAMES, or differences of them, with the bounds (low, high) of their intervals."""
    pairs = zip(NAMES, values, intervals, strict=True)
    return MetricSet(**{name: estimate(value, bounds) for name, value, bounds in pairs})


def metric_set(
    scores: Float[np.ndarray, " n"], member: Bool[np.ndarray, " n"], config: AnalysisConfig, seed: int
) -> MetricSet:
    """All metrics of one score with their bootstrap intervals.

    Args:
        scores: finite; higher means member.
        member: who is a member; at least one sample of each side.
        config: resamples and confidence.
        seed: of the resamples.
    """
    return as_metric_set(evaluate(scores, member), bootstrap(scores, member, config.bootstrap, config.confidence, seed))


def delong_estimate(scores: Float[np.ndarray, " n"], member: Bool[np.ndarray, " n"], confidence: float) -> Estimate:
    """AUROC with DeLong's interval; arguments as of `delong`.

    >>> delong_estimate(np.array([3.0, 1.0, 1.0, 2.0]), np.array([True, True, False, False]), 0.5).value
    0.625
    """
    found = delong(scores[:, None], member)
    return estimate(found.values[0], found.intervals(confidence)[0])


def row_cuts(masks: list[Mask], bins: int, dropped: int) -> dict[RowName, list[Cut]]:
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


class _Analysis:
    def __init__(
        self,
        name: str,
        rows: AttackRows,
        scans: dict[Mask, Scan],
        geometry: Float[np.ndarray, "n f"],
        config: AnalysisConfig,
        seed: int,
    ) -> None:
        self.name, self.rows, self.config, self.seed = name, rows, config, seed
        self.member, self.timesteps = rows.member, rows.timesteps
        self.scans = scans
        self._cuts = row_cuts(rows.masks, rows.bins, dropped_bins(config.drop, rows.bins))
        picks = {row: self._choosing(row).argmax(axis=0) for row in self._cuts}
        self._best = {row: max(self._candidates(row), key=self._auroc) for row in self._cuts}
        plain = self._candidates("plain")
        wanted = {self._candidates(row)[pick] for row, found in picks.items() for pick in found}
        wanted |= {*self._best.values(), *plain}
        # The plain row's timestep on most halvings: the place of a candidate that drops nothing is its timestep's.
        columns, self._spectrum = rows.read([*wanted], most_often(picks["plain"]))
        self._columns = dict(zip(wanted, columns, strict=True))
        scorers: dict[RowName, Scorer] = {row: self._scorer(row, found) for row, found in picks.items()}
        if int((~self.member).sum()) >= GEOMETRY_HELDOUT:
            logs = np.empty((len(self.member), len(plain)))
            for candidate, column in zip(plain, logs.T, strict=True):
                column[:] = np.log(np.maximum(-self._columns[candidate], np.finfo(np.float64).tiny))
            scorers["geometry"] = adjusted_scorer(logs, geometry, self.member, seed)
            self._cuts["geometry"] = self._cuts["plain"]
        self._judged = judge(scorers, self.member, config.repeats, config.bootstrap, config.confidence, seed)

    def _scorer(self, row: RowName, picks: Int[np.ndarray, " r"]) -> Scorer:
        """What the scan of the choosing halves picked on each halving."""
        candidates = self._candidates(row)
        return lambda halving, _, report: (int(picks[halving]), self._column(candidates[picks[halving]])[report])

    def _share(self, dropped: int) -> float:
        return dropped / self.rows.bins

    def _choosing(self, row: RowName) -> Float[np.ndarray, "k r"]:
        """Each candidate's AUROC on each halving's choosing half."""
        found = [self.scans[mask].choosing[dropped] for mask, dropped in self._cuts[row]]
        return np.concatenate(found)

    def _auroc(self, candidate: Candidate) -> float:
        return float(self.scans[candidate.mask].grid[candidate.dropped, candidate.step, 0])

    def _column(self, candidate: Candidate) -> Float[np.ndarray, " n"]:
        return self._columns[candidate]

    def _candidates(self, row: RowName) -> list[Candidate]:
        return [Candidate(*cut, step) for cut in self._cuts[row] for step in range(len(self.timesteps))]

    def _pick(self, row: RowName) -> Candidate:
        """What the row chose on most halvings."""
        return self._candidates(row)[self._judged[row].pick]

    def _described(self, candidate: Candidate) -> dict[str, object]:
        mask = candidate.mask.value if candidate.dropped else "none"
        return {"timestep": self.timesteps[candidate.step], "mask": mask, "drop": self._share(candidate.dropped)}

    def _heldout_choice(self, row: RowName, judged: Judged) -> HeldoutChoice:
        paired = {
            "difference": as_metric_set(judged.difference, judged.difference_intervals),
            "delong_difference": estimate(judged.difference[0], judged.auroc_difference),
        }
        return HeldoutChoice(
            **self._described(self._pick(row)),
            metrics=as_metric_set(judged.values, judged.intervals),
            delong=estimate(judged.values[0], judged.auroc),
            agreement=judged.agreement,
            **(dict.fromkeys(paired) if row == "plain" else paired),
        )

    def _oracle(self, row: RowName) -> Choice | None:
        if row == "geometry":
            return None
        best = self._best[row]
        scores = self._column(best)
        return Choice(
            **self._described(best),
            metrics=metric_set(scores, self.member, self.config, self.seed),
            delong=delong_estimate(scores, self.member, self.config.confidence),
        )

    def headline(self) -> list[Headline]:
        return [
            Headline(
                attack=self.name,
                row=row,
                heldout_choice=self._heldout_choice(row, judged),
                oracle=self._oracle(row),
            )
            for row, judged in self._judged.items()
        ]

    def _point(self, candidate: Candidate) -> Point:
        return Point(attack=self.name, **self._described(candidate), auroc=self._auroc(candidate))

    def by_timestep(self) -> list[Point]:
        return [self._point(candidate) for row in ("plain", "lowest") for candidate in self._candidates(row)]

    def by_drop(self) -> list[Point]:
        step = self._pick("plain").step
        every = range(self.rows.bins)
        return [self._point(Candidate(mask, dropped, step)) for mask in self.rows.masks for dropped in every]

    def by_bin(self) -> list[BinPoint]:
        step = self._pick("plain").step
        return [
            BinPoint(
                attack=self.name,
                bin=number,
                timestep=self.timesteps[step],
                auroc=delong_estimate(-column, self.member, self.config.confidence),
            )
            for number, column in enumerate(self._spectrum.T)
        ]

    def paper(self, groups: list[Group]) -> list[PaperRow]:
        rows: tuple[PaperRowName, ...] = get_args(PaperRowName)
        return [
            paper_row(self.name, row, self.scans[mask], dropped, self.timesteps, groups)
            for row in rows
            for mask, dropped in self._cuts[row]
        ]

    def by_distortion(self, groups: list[Group], distortion: Float[np.ndarray, " n"]) -> list[DistortionGroup]:
        found: list[DistortionGroup] = []
        for row in ("plain", "lowest"):
            found += [self._group(row, group, distortion[group.rows]) for group in groups]
        return found

    def _group(
        self, row: Literal["plain", "lowest"], group: Group, distortion: Float[np.ndarray, " m"]
    ) -> DistortionGroup:
        pick, rows = self._pick(row), group.rows
        member = self.member[rows]
        members = int(member.sum())
        auroc = None
        if group.has_both_sides(self.member):
            auroc = metric_set(self._column(pick)[rows], member, self.config, self.seed).auroc
        return DistortionGroup(
            attack=self.name,
            row=row,
            groups=group.groups,
            group=group.number,
            low=float(distortion.min()),
            high=float(distortion.max()),
            members=members,
            heldout=len(rows) - members,
            timestep=self.timesteps[pick.step],
            drop=self._share(pick.dropped),
            auroc=auroc,
        )

    def roc(self) -> list[RocPoint]:
        points = []
        _, report = halves(self.member, self.seed, 0)
        member = self.member[report]
        for row, judged in self._judged.items():
            curve = Roc(judged.first, member).curve()
            fpr, tpr = curve.fpr[0], curve.tpr[0]
            # Thinned evenly in log FPR, where the low rates are; the last point of each step is kept.
            wanted = np.concatenate([[0.0], np.geomspace(1 / (~member).sum(), 1, ROC_POINTS)])
            kept = np.unique(np.searchsorted(fpr, wanted + 1e-12, side="right") - 1)
            points += [RocPoint(attack=self.name, row=row, fpr=fpr[i], tpr=tpr[i]) for i in kept]
        return points

    def highest(self, sample_ids: pa.Array, side: Bool[np.ndarray, " n"]) -> list[ScoredSample]:
        scores = self._column(self._pick("chosen"))
        rows, heldout = np.flatnonzero(side), int((~self.member).sum())
        top = rows[np.argsort(-scores[rows], kind="stable")[:RISKY]]
        above = heldout_above(scores, self.member, top)
        return [
            ScoredSample(
                sample_id=sample_ids[i].as_py(),
                attack=self.name,
                score=-np.log10(max(-scores[i], np.finfo(np.float64).tiny)),
                heldout_above=count,
                bound=share_bound(count, heldout),
            )
            for i, count in zip(top, above.tolist(), strict=True)
        ]

    def grid_table(self) -> pa.Table:
        rows = [
            {"attack": self.name, "mask": mask.value, "drop": self._share(dropped), "timestep": timestep}
            | dict(zip(NAMES, self.scans[mask].grid[dropped, step].tolist(), strict=True))
            for mask in self.rows.masks
            for dropped in range(self.rows.bins)
            for step, timestep in enumerate(self.timesteps)
        ]
        return pa.Table.from_pylist(rows, GRID)


GRID = pa.schema(
    [("attack", pa.string()), ("mask", pa.string()), ("drop", pa.float64()), ("timestep", pa.int64())]
    + [(name, pa.float64()) for name in NAMES]
)


def summarise_attack(
    name: str,
    rows: AttackRows,
    scans: dict[Mask, Scan],
    sample_ids: pa.Array,
    distortion: Float[np.ndarray, " n"],
    geometry: Float[np.ndarray, "n f"],
    config: AnalysisConfig,
    seed: int,
) -> AttackSummary:
    """All results of one attack; a pure function of its rows, the configuration and the seed.

    Args:
        name: of the attack.
        rows: its rows, sorted by sample id.
        scans: of each mask, over all timesteps, with the choosing halves of the same seed and the groups of this
            distortion.
        sample_ids: n, in the order of the rows.
        distortion: log sqrt det G in nats; NaN if it was not measured.
        geometry: features of each sample that its statistic is adjusted by.
        config: drop share, halvings, resamples and confidence.
        seed: of the halvings and the resamples.

    Raises:
        UsageError: if the drop share is not a whole number of bins.
    """
    analysis = _Analysis(name, rows, scans, geometry, config, seed)
    groups = distortion_groups(distortion)
    return AttackSummary(
        headline=analysis.headline(),
        paper=analysis.paper(groups),
        by_timestep=analysis.by_timestep(),
        by_drop=analysis.by_drop(),
        by_bin=analysis.by_bin(),
        by_distortion=analysis.by_distortion(groups, distortion),
        roc=analysis.roc(),
        at_risk=analysis.highest(sample_ids, analysis.member),
        highest_heldout=analysis.highest(sample_ids, ~analysis.member),
        grid=analysis.grid_table(),
    )


def level_warnings(heldout: int) -> list[str]:
    """Which false positive rates this number of held-out samples is too small for.

    >>> [warning[:15] for warning in level_warnings(4000)]
    ['TPR at 0.1% FPR']
    """
    samples = reported(heldout)
    return [
        f"TPR at {level:.1%} FPR rests on {samples} held-out samples, of which at most {int(level * samples)} may be "
        f"misjudged; do not trust it with fewer than {round(10 / level)}"
        for level in (0.01, 0.001)
        if not is_trusted(level, samples)
    ]
