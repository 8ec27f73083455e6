"""Everything the results say of one attack: headline rows, curves and the full grid."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from ldm_scale.analysis.calibrated import calibrated_scorer
from ldm_scale.analysis.delong import delong
from ldm_scale.analysis.metrics import NAMES, Roc, aurocs, bootstrap, evaluate
from ldm_scale.analysis.results import (
    BinPoint,
    Calibrated,
    Choice,
    DistortionGroup,
    Estimate,
    Headline,
    MetricSet,
    Point,
    RiskyMember,
    RocPoint,
    RowName,
)
from ldm_scale.analysis.scores import Mask, Spectra
from ldm_scale.analysis.splithalf import Judged, Scorer, halves, judge, reported
from ldm_scale.config import AnalysisConfig

RISKY = 10
ROC_POINTS = 200
# The regression is fitted on as few as a quarter of the held-out samples: two of these.
GEOMETRY_HELDOUT = 8


@dataclass(frozen=True)
class AttackSummary:
    """The parts of Results that come from one attack, and its rows of metrics.parquet."""

    headline: list[Headline]
    by_timestep: list[Point]
    by_drop: list[Point]
    by_bin: list[BinPoint]
    by_distortion: list[DistortionGroup]
    roc: list[RocPoint]
    at_risk: list[RiskyMember]
    grid: pa.Table


# A mask and a drop share.
Cut = tuple[Mask, float]


@dataclass(frozen=True)
class Candidate:
    """What a headline row may choose: a mask, a drop share and a timestep, by its place among the attack's."""

    mask: Mask
    drop: float
    step: int


def estimate(value: float, bounds: Float[np.ndarray, " 2"]) -> Estimate:
    """A value with its interval."""
    return Estimate(value=value, low=bounds[0], high=bounds[1])


def as_metric_set(values: Float[np.ndarray, " 5"], intervals: Float[np.ndarray, "5 2"]) -> MetricSet:
    """The metrics of NAMES with their intervals."""
    pairs = zip(NAMES, values, intervals, strict=True)
    return MetricSet(**{name: estimate(value, bounds) for name, value, bounds in pairs})


def metric_set(
    scores: Float[np.ndarray, " n"], member: Bool[np.ndarray, " n"], config: AnalysisConfig, seed: int
) -> MetricSet:
    """All metrics of one score with their intervals."""
    return as_metric_set(evaluate(scores, member), bootstrap(scores, member, config.bootstrap, config.confidence, seed))


def delong_estimate(scores: Float[np.ndarray, " n"], member: Bool[np.ndarray, " n"], confidence: float) -> Estimate:
    """AUROC with DeLong's interval."""
    found = delong(scores[:, None], member)
    return estimate(found.values[0], found.intervals(confidence)[0])


def row_cuts(spectra: Spectra, drop: float) -> dict[RowName, list[Cut]]:
    """What each headline row chooses from, at every timestep."""
    shares = spectra.shares()
    rows: dict[RowName, list[Cut]] = {"plain": [(Mask.LOWEST, 0.0)], "lowest": [(Mask.LOWEST, drop)]}
    if spectra.globally is not None:
        rows["global"] = [(Mask.GLOBAL, drop)]
    return rows | {
        "random": [(Mask.RANDOM, drop)],
        "highest": [(Mask.HIGHEST, drop)],
        "chosen": [(Mask.LOWEST, share) for share in shares] + [(Mask.HIGHEST, share) for share in shares[1:]],
    }


def cut_scorer(spectra: Spectra, cuts: list[Cut]) -> Scorer:
    """Candidates: each cut at each timestep, in that order."""

    def score(choose: np.ndarray, report: np.ndarray) -> tuple[int, np.ndarray]:
        sample = spectra.take(choose)
        found = [aurocs(sample.scores(*cut), sample.member) for cut in cuts]
        pick = int(np.concatenate(found).argmax())
        cut, step = divmod(pick, len(spectra.timesteps))
        return pick, spectra.take(report).scores(*cuts[cut])[:, step]

    return score


class _Analysis:
    def __init__(
        self, name: str, spectra: Spectra, geometry: Float[np.ndarray, "n f"], config: AnalysisConfig, seed: int
    ) -> None:
        self.name, self.spectra, self.config, self.seed = name, spectra, config, seed
        self._cuts = row_cuts(spectra, config.drop)
        scorers: dict[RowName, Scorer] = {row: cut_scorer(spectra, cuts) for row, cuts in self._cuts.items()}
        if int((~spectra.member).sum()) >= GEOMETRY_HELDOUT:
            plain = np.maximum(-spectra.scores(Mask.LOWEST, 0.0), np.finfo(np.float64).tiny)
            scorers["geometry"] = calibrated_scorer(np.log(plain), geometry, spectra.member, seed)
            self._cuts["geometry"] = self._cuts["plain"]
        self._judged = judge(scorers, spectra.member, config.repeats, config.bootstrap, config.confidence, seed)
        # (shares, timesteps, 5)
        self.grids = {
            mask: np.stack([self._evaluate(spectra.scores(mask, share)) for share in spectra.shares()])
            for mask in spectra.masks
        }

    def _evaluate(self, scores: Float[np.ndarray, "n t"]) -> Float[np.ndarray, "t 5"]:
        return np.stack([evaluate(column, self.spectra.member) for column in scores.T])

    def _share(self, drop: float) -> int:
        return round(drop * self.spectra.bins)

    def _auroc(self, candidate: Candidate) -> float:
        return float(self.grids[candidate.mask][self._share(candidate.drop), candidate.step, 0])

    def _column(self, candidate: Candidate) -> Float[np.ndarray, " n"]:
        return self.spectra.scores(candidate.mask, candidate.drop)[:, candidate.step]

    def _candidates(self, row: RowName) -> list[Candidate]:
        steps = range(len(self.spectra.timesteps))
        return [Candidate(*cut, step) for cut in self._cuts[row] for step in steps]

    def _pick(self, row: RowName) -> Candidate:
        """What the row chose on most splits."""
        return self._candidates(row)[self._judged[row].pick]

    def _described(self, candidate: Candidate) -> dict[str, object]:
        mask = candidate.mask.value if candidate.drop else "none"
        return {"timestep": self.spectra.timesteps[candidate.step], "mask": mask, "drop": candidate.drop}

    def _calibrated(self, row: RowName, judged: Judged) -> Calibrated:
        paired = {
            "difference": as_metric_set(judged.difference, judged.difference_intervals),
            "delong_difference": estimate(judged.difference[0], judged.auroc_difference),
        }
        return Calibrated(
            **self._described(self._pick(row)),
            metrics=as_metric_set(judged.values, judged.intervals),
            delong=estimate(judged.values[0], judged.auroc),
            agreement=judged.agreement,
            **(dict.fromkeys(paired) if row == "plain" else paired),
        )

    def _oracle(self, row: RowName) -> Choice | None:
        if row == "geometry":
            return None
        best = max(self._candidates(row), key=self._auroc)
        scores, member = self._column(best), self.spectra.member
        return Choice(
            **self._described(best),
            metrics=metric_set(scores, member, self.config, self.seed),
            delong=delong_estimate(scores, member, self.config.confidence),
        )

    def headline(self) -> list[Headline]:
        return [
            Headline(
                attack=self.name, row=row, calibrated=self._calibrated(row, self._judged[row]), oracle=self._oracle(row)
            )
            for row in self._cuts
        ]

    def _point(self, candidate: Candidate) -> Point:
        return Point(attack=self.name, **self._described(candidate), auroc=self._auroc(candidate))

    def by_timestep(self) -> list[Point]:
        return [self._point(candidate) for row in ("plain", "lowest") for candidate in self._candidates(row)]

    def by_drop(self) -> list[Point]:
        step = self._pick("plain").step
        shares = self.spectra.shares()
        return [self._point(Candidate(mask, share, step)) for mask in self.spectra.masks for share in shares]

    def by_bin(self) -> list[BinPoint]:
        step = self._pick("plain").step
        found = delong(-self.spectra.by_influence[:, step], self.spectra.member)
        timestep = self.spectra.timesteps[step]
        pairs = zip(found.values, found.intervals(self.config.confidence), strict=True)
        return [
            BinPoint(attack=self.name, bin=number, timestep=timestep, auroc=estimate(value, bounds))
            for number, (value, bounds) in enumerate(pairs)
        ]

    def by_distortion(self, distortion: Float[np.ndarray, " n"]) -> list[DistortionGroup]:
        measured = np.flatnonzero(np.isfinite(distortion))
        if len(measured) < 4:
            return []
        ordered = measured[np.argsort(distortion[measured], kind="stable")]
        return [
            self._group(row, groups, number, rows, distortion[rows])
            for row in ("plain", "lowest")
            for groups in (2, 4)
            for number, rows in enumerate(np.array_split(ordered, groups), start=1)
        ]

    def _group(
        self,
        row: Literal["plain", "lowest"],
        groups: Literal[2, 4],
        number: int,
        rows: Int[np.ndarray, " m"],
        distortion: Float[np.ndarray, " m"],
    ) -> DistortionGroup:
        pick, member = self._pick(row), self.spectra.member[rows]
        members = int(member.sum())
        auroc = None
        if 0 < members < len(rows):
            auroc = metric_set(self._column(pick)[rows], member, self.config, self.seed).auroc
        return DistortionGroup(
            attack=self.name,
            row=row,
            groups=groups,
            group=number,
            low=float(distortion.min()),
            high=float(distortion.max()),
            members=members,
            heldout=len(rows) - members,
            timestep=self.spectra.timesteps[pick.step],
            drop=pick.drop,
            auroc=auroc,
        )

    def roc(self) -> list[RocPoint]:
        points = []
        _, report = halves(self.spectra.member, self.seed, 0)
        member = self.spectra.member[report]
        for row, judged in self._judged.items():
            curve = Roc(judged.first, member).curve()
            fpr, tpr = curve.fpr[0], curve.tpr[0]
            # Thinned evenly in log FPR, where the low rates are; the last point of each step is kept.
            wanted = np.concatenate([[0.0], np.geomspace(1 / (~member).sum(), 1, ROC_POINTS)])
            kept = np.unique(np.searchsorted(fpr, wanted + 1e-12, side="right") - 1)
            points += [RocPoint(attack=self.name, row=row, fpr=fpr[i], tpr=tpr[i]) for i in kept]
        return points

    def at_risk(self, sample_ids: np.ndarray) -> list[RiskyMember]:
        scores = self._column(self._pick("chosen"))
        members, heldout = np.flatnonzero(self.spectra.member), np.sort(scores[~self.spectra.member])
        top = members[np.argsort(-scores[members], kind="stable")[:RISKY]]
        above = (len(heldout) - np.searchsorted(heldout, scores[top], side="right")) / len(heldout)
        return [
            RiskyMember(
                sample_id=sample_ids[i],
                attack=self.name,
                score=-np.log10(max(-scores[i], np.finfo(np.float64).tiny)),
                heldout_above=share,
            )
            for i, share in zip(top, above, strict=True)
        ]

    def grid_table(self) -> pa.Table:
        shares, steps = self.spectra.shares(), self.spectra.timesteps
        rows = [
            {"attack": self.name, "mask": mask.value, "drop": drop, "timestep": step}
            | dict(zip(NAMES, grid[i, j].tolist(), strict=True))
            for mask, grid in self.grids.items()
            for i, drop in enumerate(shares)
            for j, step in enumerate(steps)
        ]
        return pa.Table.from_pylist(rows, GRID)


GRID = pa.schema(
    [("attack", pa.string()), ("mask", pa.string()), ("drop", pa.float64()), ("timestep", pa.int64())]
    + [(name, pa.float64()) for name in NAMES]
)


def summarise_attack(
    name: str,
    spectra: Spectra,
    sample_ids: np.ndarray,
    distortion: Float[np.ndarray, " n"],
    geometry: Float[np.ndarray, "n f"],
    config: AnalysisConfig,
    seed: int,
) -> AttackSummary:
    """All results of one attack; a pure function of its rows (sorted by sample id), the configuration and the seed.

    geometry: the features that a sample's statistic is calibrated by. An attack that the configuration averages is
    summarised by the mean over its timesteps.
    """
    if name in config.average:
        spectra = spectra.averaged()
    analysis = _Analysis(name, spectra, geometry, config, seed)
    return AttackSummary(
        headline=analysis.headline(),
        by_timestep=analysis.by_timestep(),
        by_drop=analysis.by_drop(),
        by_bin=analysis.by_bin(),
        by_distortion=analysis.by_distortion(distortion),
        roc=analysis.roc(),
        at_risk=analysis.at_risk(sample_ids),
        grid=analysis.grid_table(),
    )


def level_warnings(heldout: int) -> list[str]:
    """Which false positive rates the held-out samples are too few for."""
    samples = reported(heldout)
    return [
        f"TPR at {level:.1%} FPR rests on {samples} held-out samples, of which at most {int(level * samples)} may be "
        f"misjudged; do not trust it with fewer than {round(10 / level)}"
        for level in (0.01, 0.001)
        if samples < 10 / level
    ]
