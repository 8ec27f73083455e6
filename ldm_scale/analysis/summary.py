"""Everything the results say of one attack: headline rows, curves and the full grid."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from ldm_scale.analysis.metrics import NAMES, Roc, bootstrap, evaluate
from ldm_scale.analysis.results import (
    Choice,
    DistortionGroup,
    Estimate,
    Headline,
    MetricSet,
    Point,
    RiskyMember,
    RocPoint,
)
from ldm_scale.analysis.scores import Mask, Spectra
from ldm_scale.config import AnalysisConfig

RISKY = 10
ROC_POINTS = 200
# One of these masks and a list of drop shares is what each headline row chooses from.
ROWS: dict[str, Mask] = {
    "plain": Mask.LOWEST,
    "lowest": Mask.LOWEST,
    "random": Mask.RANDOM,
    "highest": Mask.HIGHEST,
    "chosen": Mask.LOWEST,
}


@dataclass(frozen=True)
class AttackSummary:
    """The parts of Results that come from one attack, and its rows of metrics.parquet."""

    headline: list[Headline]
    by_timestep: list[Point]
    by_drop: list[Point]
    by_distortion: list[DistortionGroup]
    roc: list[RocPoint]
    at_risk: list[RiskyMember]
    grid: pa.Table


def reported(count: int) -> int:
    """How many of `count` samples of one side are in the half that is reported on."""
    return count - count // 2


def halves(member: Bool[np.ndarray, " n"], seed: int) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
    """Two random halves of the samples, each with half of the members and half of the held-out: (choose, report)."""
    rng = np.random.default_rng(seed)
    sides = [rng.permutation(np.flatnonzero(side)) for side in (member, ~member)]
    choose = np.concatenate([side[: -reported(len(side))] for side in sides])
    report = np.concatenate([side[-reported(len(side)) :] for side in sides])
    return np.sort(choose), np.sort(report)


def metric_set(
    scores: Float[np.ndarray, " n"], member: Bool[np.ndarray, " n"], config: AnalysisConfig, seed: int
) -> MetricSet:
    """All metrics of one score with their intervals."""
    values = evaluate(scores, member)
    intervals = bootstrap(scores, member, config.bootstrap, config.confidence, seed)
    estimates = [Estimate(value=v, low=low, high=high) for v, (low, high) in zip(values, intervals, strict=True)]
    return MetricSet(**dict(zip(NAMES, estimates, strict=True)))


def _grid(spectra: Spectra, mask: Mask, shares: list[float]) -> Float[np.ndarray, "q t 4"]:
    """The metrics of NAMES at each drop share and timestep."""
    return np.stack(
        [[evaluate(column, spectra.member) for column in spectra.scores(mask, share).T] for share in shares]
    )


def _best(grid: Float[np.ndarray, "q t 4"], shares: list[float]) -> tuple[float, int]:
    """The drop share and the step of the highest AUROC."""
    share, step = np.unravel_index(grid[:, :, 0].argmax(), grid.shape[:2])
    return shares[share], int(step)


class _Analysis:
    def __init__(self, name: str, spectra: Spectra, config: AnalysisConfig, seed: int) -> None:
        self.name, self.spectra, self.config, self.seed = name, spectra, config, seed
        choose, report = halves(spectra.member, seed)
        self._report = spectra.take(report)
        shares = spectra.shares()
        self._shares = {"plain": [0.0], "lowest": [config.drop], "random": [config.drop], "highest": [config.drop]}
        self._shares["chosen"] = shares
        self.grids = {mask: _grid(spectra, mask, shares) for mask in Mask}
        calibration = spectra.take(choose)
        self._picks = {
            row: _best(_grid(calibration, mask, self._shares[row]), self._shares[row]) for row, mask in ROWS.items()
        }

    def _choice(self, row: str, pick: tuple[float, int], samples: Spectra) -> Choice:
        drop, step = pick
        scores = samples.scores(ROWS[row], drop)[:, step]
        metrics = metric_set(scores, samples.member, self.config, self.seed)
        return Choice(timestep=samples.timesteps[step], drop=drop, metrics=metrics)

    def _oracle_pick(self, row: str) -> tuple[float, int]:
        shares = self._shares[row]
        return _best(self.grids[ROWS[row]][[round(share * self.spectra.bins) for share in shares]], shares)

    def headline(self) -> list[Headline]:
        return [
            Headline(
                attack=self.name,
                row=row,
                calibrated=self._choice(row, self._picks[row], self._report),
                oracle=self._choice(row, self._oracle_pick(row), self.spectra),
            )
            for row in ROWS
        ]

    def _point(self, mask: Mask, share: int, step: int) -> Point:
        drop = self.spectra.shares()[share]
        name = mask.value if share else "none"
        auroc = float(self.grids[mask][share, step, 0])
        return Point(attack=self.name, mask=name, drop=drop, timestep=self.spectra.timesteps[step], auroc=auroc)

    def by_timestep(self) -> list[Point]:
        dropped = round(self.config.drop * self.spectra.bins)
        steps = range(len(self.spectra.timesteps))
        return [self._point(Mask.LOWEST, share, step) for share in (0, dropped) for step in steps]

    def by_drop(self) -> list[Point]:
        step = self._picks["plain"][1]
        return [self._point(mask, share, step) for mask in Mask for share in range(self.spectra.bins)]

    def _calibrated_scores(self, row: str, samples: Spectra) -> Float[np.ndarray, " n"]:
        drop, step = self._picks[row]
        return samples.scores(ROWS[row], drop)[:, step]

    def by_distortion(self, distortion: Float[np.ndarray, " n"]) -> list[DistortionGroup]:
        measured = np.flatnonzero(np.isfinite(distortion))
        if len(measured) < 4:
            return []
        quartiles = np.array_split(measured[np.argsort(distortion[measured], kind="stable")], 4)
        return [
            self._group(row, number, rows, distortion[rows])
            for row in ("plain", "lowest")
            for number, rows in enumerate(quartiles, start=1)
        ]

    def _group(
        self, row: str, number: int, rows: Int[np.ndarray, " m"], distortion: Float[np.ndarray, " m"]
    ) -> DistortionGroup:
        samples = self.spectra.take(rows)
        members = int(samples.member.sum())
        auroc = None
        if 0 < members < len(rows):
            auroc = metric_set(self._calibrated_scores(row, samples), samples.member, self.config, self.seed).auroc
        drop, step = self._picks[row]
        return DistortionGroup(
            attack=self.name,
            row=row,
            quartile=number,
            low=float(distortion.min()),
            high=float(distortion.max()),
            members=members,
            heldout=len(rows) - members,
            timestep=self.spectra.timesteps[step],
            drop=drop,
            auroc=auroc,
        )

    def roc(self) -> list[RocPoint]:
        points = []
        for row in ROWS:
            curve = Roc(self._calibrated_scores(row, self._report), self._report.member).curve()
            fpr, tpr = curve.fpr[0], curve.tpr[0]
            # Thinned evenly in log FPR, where the low rates are; the last point of each step is kept.
            wanted = np.concatenate([[0.0], np.geomspace(1 / (~self._report.member).sum(), 1, ROC_POINTS)])
            kept = np.unique(np.searchsorted(fpr, wanted + 1e-12, side="right") - 1)
            points += [RocPoint(attack=self.name, row=row, fpr=fpr[i], tpr=tpr[i]) for i in kept]
        return points

    def at_risk(self, sample_ids: np.ndarray) -> list[RiskyMember]:
        scores = self._calibrated_scores("chosen", self.spectra)
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
            | dict(zip(NAMES, self.grids[mask][i, j].tolist(), strict=True))
            for mask in Mask
            for i, drop in enumerate(shares)
            for j, step in enumerate(steps)
        ]
        return pa.Table.from_pylist(rows)


def summarise_attack(
    name: str,
    spectra: Spectra,
    sample_ids: np.ndarray,
    distortion: Float[np.ndarray, " n"],
    config: AnalysisConfig,
    seed: int,
) -> AttackSummary:
    """All results of one attack; a pure function of its rows (sorted by sample id), the configuration and the seed."""
    analysis = _Analysis(name, spectra, config, seed)
    return AttackSummary(
        headline=analysis.headline(),
        by_timestep=analysis.by_timestep(),
        by_drop=analysis.by_drop(),
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
