"""The same audit on several seeds: rows as means over them, beside the paper's row of CIFAR-10."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field
from scipy.stats import t

from ldm_scale.analysis.results import Estimate, Headline, MetricSet, PaperRow, PaperRowName, Results, RowName
from ldm_scale.config.base import Record

# Table of the paper: 25,000 members and as many held-out, SimA, drop 40%.
PAPER: dict[RowName, tuple[float, float, float]] = {
    "plain": (0.8910, 0.8163, 0.1988),
    "lowest": (0.9126, 0.8358, 0.2456),
    "random": (0.8644, 0.7880, 0.1592),
}
ROWS: tuple[RowName, ...] = ("plain", "lowest", "global", "random", "highest")
QUARTILES = 4


class OverSeeds(Record):
    """A value on each seed, and its mean over them."""

    seeds: tuple[float, ...]
    within: tuple[tuple[float, float], ...] = Field(
        description="low and high on each seed, over its samples; none of a difference that results.json does not have"
    )
    mean: float
    low: float | None = Field(description="of Student's interval of the mean over seeds; none of one seed")
    high: float | None


class Metrics(Record):
    """What the paper's tables have, or differences of them."""

    auroc: OverSeeds
    asr: OverSeeds
    paper_tpr_at_1pct_fpr: OverSeeds


class ReplicatedRow(Record):
    """One row of an attack: the held-out choices of all seeds."""

    attack: str
    latent: str = Field(description="attacked: the encoder's mode, or a sample of its posterior")
    row: RowName
    metrics: Metrics
    minus_plain: Metrics | None = Field(description="paired on each seed; none for plain itself")
    minus_random: Metrics | None = Field(description="likewise minus the random row; for lowest and global")


class ReplicatedPaperRow(Record):
    """One row of an attack by the rules of the paper's authors, as PaperRow: optimistic, beside the paper's."""

    attack: str
    latent: str
    row: PaperRowName
    metrics: Metrics = Field(description="without intervals on each seed")


class ReplicatedQuartile(Record):
    """AUROC among a quartile of distortion, of members and held-out together."""

    attack: str
    latent: str
    row: RowName
    group: int = Field(description="1 is the least distorted")
    auroc: OverSeeds


class Replication(Record):
    """All that a reproduction found."""

    config: dict[str, Any]
    members: int
    heldout: int
    confidence: float
    paper: dict[RowName, tuple[float, float, float]] = Field(
        description="AUROC, ASR and TPR@1%FPR of the paper's CIFAR-10 row; each at its own best timestep"
    )
    by_papers_rules: tuple[ReplicatedPaperRow, ...]
    rows: tuple[ReplicatedRow, ...]
    quartiles: tuple[ReplicatedQuartile, ...]


def over_seeds(values: Sequence[float], confidence: float, within: Sequence[Estimate] = ()) -> OverSeeds:
    """The mean of the seeds' values, with Student's interval of this confidence in (0, 1).

    >>> found = over_seeds([1.0, 2.0, 3.0], 0.95)
    >>> found.mean, round(found.high - found.mean, 3)  # 4.303 / sqrt(3)
    (2.0, 2.484)
    """
    mean = float(np.mean(values))
    half = None
    if len(values) > 1:
        half = float(t.isf((1 - confidence) / 2, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return OverSeeds(
        seeds=tuple(values),
        within=tuple((estimate.low, estimate.high) for estimate in within),
        mean=mean,
        low=None if half is None else mean - half,
        high=None if half is None else mean + half,
    )


def replicate(config: dict[str, Any], found: Mapping[str, Sequence[Results]]) -> Replication:
    """What the audits of all seeds say together.

    Args:
        config: of the reproduction, for the record.
        found: the results of each seed, in their order, by what was attacked.
    """
    first = next(iter(found.values()))[0]
    return Replication(
        config=config,
        members=first.members,
        heldout=first.heldout,
        confidence=first.confidence,
        paper=PAPER,
        by_papers_rules=tuple(
            _paper_row(latent, lines, first.confidence)
            for latent, results in found.items()
            for lines in zip(*(one.paper for one in results), strict=True)
        ),
        rows=tuple(row for latent, results in found.items() for row in _rows(latent, results)),
        quartiles=tuple(group for latent, results in found.items() for group in _quartiles(latent, results)),
    )


def _paper_row(latent: str, lines: Sequence[PaperRow], confidence: float) -> ReplicatedPaperRow:
    def pooled(name: str) -> OverSeeds:
        return over_seeds([getattr(line, name).value for line in lines], confidence)

    metrics = Metrics(auroc=pooled("auroc"), asr=pooled("asr"), paper_tpr_at_1pct_fpr=pooled("tpr_at_1pct_fpr"))
    return ReplicatedPaperRow(attack=lines[0].attack, latent=latent, row=lines[0].row, metrics=metrics)


def _rows(latent: str, results: Sequence[Results]) -> list[ReplicatedRow]:
    lines = [{(line.attack, line.row): line for line in one.headline} for one in results]
    confidence = results[0].confidence
    return [
        _row(latent, [seed[attack, row] for seed in lines], [seed[attack, "random"] for seed in lines], confidence)
        for attack, row in lines[0]
        if row in ROWS
    ]


def _row(latent: str, lines: Sequence[Headline], random: Sequence[Headline], confidence: float) -> ReplicatedRow:
    metrics, controls = ([line.heldout_choice.metrics for line in some] for some in (lines, random))
    differences = [found for line in lines if (found := line.heldout_choice.difference)]
    controlled = lines[0].row in ("lowest", "global")
    return ReplicatedRow(
        attack=lines[0].attack,
        latent=latent,
        row=lines[0].row,
        metrics=_pool(metrics, confidence),
        minus_plain=_pool(differences, confidence) if differences else None,
        minus_random=_pool(metrics, confidence, controls) if controlled else None,
    )


def _pool(sets: Sequence[MetricSet], confidence: float, others: Sequence[MetricSet] = ()) -> Metrics:
    """Each metric over the seeds; or minus that of others, of which there is no interval on each seed."""

    def pooled(name: str) -> OverSeeds:
        estimates, less = ([getattr(one, name) for one in some] for some in (sets, others))
        if not less:
            return over_seeds([estimate.value for estimate in estimates], confidence, estimates)
        pairs = zip(estimates, less, strict=True)
        return over_seeds([one.value - other.value for one, other in pairs], confidence)

    return Metrics(**{name: pooled(name) for name in Metrics.model_fields})


def _quartiles(latent: str, results: Sequence[Results]) -> list[ReplicatedQuartile]:
    """Those that have an AUROC on every seed."""
    found = []
    groups = [[group for group in one.by_distortion if group.groups == QUARTILES] for one in results]
    for same in zip(*groups, strict=False):
        aurocs = [group.auroc for group in same if group.auroc is not None]
        if len(aurocs) == len(same):
            pooled = over_seeds([auroc.value for auroc in aurocs], results[0].confidence, aurocs)
            attack, row, group = same[0].attack, same[0].row, same[0].group
            found.append(ReplicatedQuartile(attack=attack, latent=latent, row=row, group=group, auroc=pooled))
    return found
