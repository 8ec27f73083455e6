"""Everything the results say of one attack: headline rows, curves and the full grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from scipy.stats import beta

from ldm_scale.analysis.choices import Choices
from ldm_scale.analysis.delong import delong
from ldm_scale.analysis.groups import Group, distortion_groups
from ldm_scale.analysis.metrics import NAMES, bootstrap, evaluate
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
    reported,
)
from ldm_scale.analysis.scores import Candidate
from ldm_scale.analysis.splithalf import Judged
from ldm_scale.config.audit import AnalysisConfig

RISKY = 10
# The rows whose AUROC is looked at by distortion.
GroupRow = Literal["plain", "lowest"]


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


def metric_sets(
    scores: Sequence[Float[np.ndarray, " n"]], member: Bool[np.ndarray, " n"], config: AnalysisConfig, seed: int
) -> list[MetricSet]:
    """All metrics of some scores with their bootstrap intervals, on the same resamples.

    Args:
        config: resamples and confidence.
    """
    intervals = bootstrap(scores, member, config.bootstrap, config.confidence, seed)
    return [MetricSet.of(evaluate(column, member), bounds) for column, bounds in zip(scores, intervals, strict=True)]


def delong_estimate(scores: Float[np.ndarray, " n"], member: Bool[np.ndarray, " n"], confidence: float) -> Estimate:
    """AUROC with DeLong's interval; arguments as of `delong`.

    >>> delong_estimate(np.array([3.0, 1.0, 1.0, 2.0]), np.array([True, True, False, False]), 0.5).value
    0.625
    """
    found = delong(scores[:, None], member)
    return Estimate.of(found.values[0], found.intervals(confidence)[0])


def oracle_metrics(
    attacks: Sequence[Choices], member: Bool[np.ndarray, " n"], config: AnalysisConfig, seed: int
) -> list[dict[RowName, MetricSet]]:
    """The metrics of each attack's best candidate for each row, on all samples, all of them on the same resamples.

    Args:
        attacks: what their rows choose.
        config: resamples and confidence.
    """
    best = [{row: choices.best(row) for row in choices.cuts} for choices in attacks]
    # Two rows may have the same one.
    wanted = {
        (i, candidate): attacks[i].columns[candidate] for i, found in enumerate(best) for candidate in found.values()
    }
    metrics = dict(zip(wanted, metric_sets([*wanted.values()], member, config, seed), strict=True))
    return [{row: metrics[i, candidate] for row, candidate in found.items()} for i, found in enumerate(best)]


def group_aurocs(
    attacks: Sequence[Choices], group: Group, member: Bool[np.ndarray, " n"], config: AnalysisConfig, seed: int
) -> list[dict[GroupRow, Estimate]]:
    """The AUROC in one group of samples of what each attack chose on most halvings; nothing if a side is empty.

    Args:
        attacks: what their rows choose.
        group: of samples of like distortion.
        config: resamples and confidence.
    """
    if not group.has_both_sides(member):
        return [{} for _ in attacks]
    rows: tuple[GroupRow, ...] = get_args(GroupRow)
    scores = [choices.column(row)[group.rows] for choices in attacks for row in rows]
    found = iter(metric_sets(scores, member[group.rows], config, seed))
    return [{row: next(found).auroc for row in rows} for _ in attacks]


class _Analysis:
    def __init__(
        self,
        name: str,
        choices: Choices,
        judged: Sequence[Judged],
        member: Bool[np.ndarray, " n"],
        config: AnalysisConfig,
    ) -> None:
        self.name, self.choices, self.member, self.config = name, choices, member, config
        self.timesteps, self.scans, self.bins = choices.timesteps, choices.scans, choices.spectrum.shape[1]
        rows: tuple[RowName, ...] = (*choices.cuts, "geometry")
        self._judged = dict(zip(rows, judged, strict=False))

    def _share(self, dropped: int) -> float:
        return dropped / self.bins

    def _pick(self, row: RowName) -> Candidate:
        """What the row chose on most halvings."""
        return self.choices.candidates("plain" if row == "geometry" else row)[self._judged[row].pick]

    def _described(self, candidate: Candidate) -> dict[str, object]:
        mask = candidate.mask.value if candidate.dropped else "none"
        return {"timestep": self.timesteps[candidate.step], "mask": mask, "drop": self._share(candidate.dropped)}

    def headline(self, oracles: Mapping[RowName, MetricSet]) -> list[Headline]:
        return [
            Headline(
                attack=self.name,
                row=row,
                heldout_choice=HeldoutChoice(
                    **self._described(self._pick(row)),
                    metrics=judged.metrics,
                    delong=judged.delong,
                    agreement=judged.agreement,
                    **judged.differences(row != "plain"),
                ),
                oracle=self._oracle(row, oracles[row]) if row in oracles else None,
            )
            for row, judged in self._judged.items()
        ]

    def _oracle(self, row: RowName, metrics: MetricSet) -> Choice:
        best = self.choices.best(row)
        delong = delong_estimate(self.choices.columns[best], self.member, self.config.confidence)
        return Choice(**self._described(best), metrics=metrics, delong=delong)

    def _point(self, candidate: Candidate) -> Point:
        return Point(attack=self.name, **self._described(candidate), auroc=self.choices.auroc(candidate))

    def by_timestep(self) -> list[Point]:
        return [self._point(candidate) for row in ("plain", "lowest") for candidate in self.choices.candidates(row)]

    def by_drop(self) -> list[Point]:
        step = self._pick("plain").step
        every = range(self.bins)
        return [self._point(Candidate(mask, dropped, step)) for mask in self.scans for dropped in every]

    def by_bin(self) -> list[BinPoint]:
        step = self._pick("plain").step
        return [
            BinPoint(
                attack=self.name,
                bin=number,
                timestep=self.timesteps[step],
                auroc=delong_estimate(-column, self.member, self.config.confidence),
            )
            for number, column in enumerate(self.choices.spectrum.T)
        ]

    def paper(self, groups: list[Group]) -> list[PaperRow]:
        rows: tuple[PaperRowName, ...] = get_args(PaperRowName)
        return [
            paper_row(self.name, row, self.scans[mask], dropped, self.timesteps, groups)
            for row in rows
            for mask, dropped in self.choices.cuts[row]
        ]

    def by_distortion(
        self, groups: list[Group], distortion: Float[np.ndarray, " n"], aurocs: Sequence[Mapping[GroupRow, Estimate]]
    ) -> list[DistortionGroup]:
        rows: tuple[GroupRow, ...] = get_args(GroupRow)
        return [
            self._group(row, group, distortion[group.rows], found.get(row))
            for row in rows
            for group, found in zip(groups, aurocs, strict=True)
        ]

    def _group(
        self, row: GroupRow, group: Group, distortion: Float[np.ndarray, " m"], auroc: Estimate | None
    ) -> DistortionGroup:
        pick, members = self._pick(row), int(self.member[group.rows].sum())
        return DistortionGroup(
            attack=self.name,
            row=row,
            groups=group.groups,
            group=group.number,
            low=float(distortion.min()),
            high=float(distortion.max()),
            members=members,
            heldout=len(group.rows) - members,
            timestep=self.timesteps[pick.step],
            drop=self._share(pick.dropped),
            auroc=auroc,
        )

    def roc(self) -> list[RocPoint]:
        return [
            RocPoint(attack=self.name, row=row, fpr=fpr, tpr=tpr)
            for row, judged in self._judged.items()
            for fpr, tpr in judged.curve
        ]

    def highest(self, sample_ids: pa.Array, side: Bool[np.ndarray, " n"]) -> list[ScoredSample]:
        scores = self.choices.column("chosen")
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
            for mask in self.scans
            for dropped in range(self.bins)
            for step, timestep in enumerate(self.timesteps)
        ]
        return pa.Table.from_pylist(rows, GRID)


GRID = pa.schema(
    [("attack", pa.string()), ("mask", pa.string()), ("drop", pa.float64()), ("timestep", pa.int64())]
    + [(name, pa.float64()) for name in NAMES]
)


def summarise_attack(
    name: str,
    choices: Choices,
    judged: Sequence[Judged],
    oracles: Mapping[RowName, MetricSet],
    aurocs: Sequence[Mapping[GroupRow, Estimate]],
    member: Bool[np.ndarray, " n"],
    sample_ids: pa.Array,
    distortion: Float[np.ndarray, " n"],
    config: AnalysisConfig,
) -> AttackSummary:
    """All results of one attack; a pure function of what it is given.

    Args:
        name: of the attack.
        choices: what its rows choose, from scans with the groups of this distortion.
        judged: what each of its scorers reaches over all halvings.
        oracles: `oracle_metrics` of this attack.
        aurocs: `group_aurocs` of this attack, for each group.
        sample_ids: n, in the order of the samples.
        distortion: log sqrt det G in nats; NaN if it was not measured.
        config: drop share and confidence.
    """
    analysis = _Analysis(name, choices, judged, member, config)
    groups = distortion_groups(distortion)
    return AttackSummary(
        headline=analysis.headline(oracles),
        paper=analysis.paper(groups),
        by_timestep=analysis.by_timestep(),
        by_drop=analysis.by_drop(),
        by_bin=analysis.by_bin(),
        by_distortion=analysis.by_distortion(groups, distortion, aurocs),
        roc=analysis.roc(),
        at_risk=analysis.highest(sample_ids, member),
        highest_heldout=analysis.highest(sample_ids, ~member),
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
        if not is_trusted(level, heldout)
    ]
