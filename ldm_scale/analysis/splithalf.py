"""Repeated split-half: choose and fit on one half of the samples, report on the other, again and again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from ldm_scale.analysis.delong import delong
from ldm_scale.analysis.metrics import aurocs, bootstrap_weights, evaluate, quantiles, resampled

# From a split's number, the rows to choose by and the rows to report on: which candidate was chosen, and its scores
# (b,) of the latter.
Scorer = Callable[[int, np.ndarray, np.ndarray], tuple[int, np.ndarray]]
Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Judged:
    """What one scorer's best candidate reaches, over r splits.

    picks: (r,) the candidate chosen on each split. values: (5,) metrics of NAMES. intervals: (5, 2) low and high.
    difference, difference_intervals: values and intervals of these metrics minus the baseline's on the same samples.
    auroc, auroc_difference: (2,) the bounds of DeLong's interval of the AUROC and of its difference. first: the
    reported half's scores on the first split.
    """

    picks: Int[np.ndarray, " r"]
    values: Float[np.ndarray, " 5"]
    intervals: Float[np.ndarray, "5 2"]
    difference: Float[np.ndarray, " 5"]
    difference_intervals: Float[np.ndarray, "5 2"]
    auroc: Float[np.ndarray, " 2"]
    auroc_difference: Float[np.ndarray, " 2"]
    first: Float[np.ndarray, " b"]

    @property
    def pick(self) -> int:
        """The candidate chosen most often."""
        return int(np.bincount(self.picks).argmax())

    @property
    def agreement(self) -> float:
        """The share of the splits that chose it."""
        return float((self.picks == self.pick).mean())


def reported(count: int) -> int:
    """How many of `count` samples of one side are in the half that is reported on."""
    return count - count // 2


def halves(
    member: Bool[np.ndarray, " n"], seed: int, split: int
) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
    """Two random halves of the samples, each with half of the members and half of the held-out: (choose, report)."""
    rng = np.random.default_rng([seed, split])
    sides = [rng.permutation(np.flatnonzero(side)) for side in (member, ~member)]
    choose = np.concatenate([side[: -reported(len(side))] for side in sides])
    report = np.concatenate([side[-reported(len(side)) :] for side in sides])
    return np.sort(choose), np.sort(report)


def choosing(member: Bool[np.ndarray, " n"], repeats: int, seed: int) -> Bool[np.ndarray, "r n"]:
    """Which samples are in the half to choose by, for each split."""
    chosen = np.zeros((repeats, len(member)), dtype=bool)
    for split, row in enumerate(chosen):
        row[halves(member, seed, split)[0]] = True
    return chosen


def best(candidates: Float[np.ndarray, "a m"], member: Bool[np.ndarray, " a"]) -> int:
    """The candidate with the highest AUROC, the first of equals."""
    return int(aurocs(candidates, member).argmax())


def judge(
    scorers: dict[Name, Scorer],
    member: Bool[np.ndarray, " n"],
    repeats: int,
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[Name, Judged]:
    """Each scorer's calibrated metrics: means over splits of what one half's choice reaches on the other.

    On each split every scorer chooses (and fits) on one half and is judged on the other half, all of them on the same
    bootstrap resamples, so that differences to the first scorer (the baseline) are paired. Interval bounds are
    means of the splits' bounds: conservative, as wide as one half allows while the mean over splits uses every sample.
    """
    splits = []
    for split in range(repeats):
        choose, report = halves(member, seed, split)
        picks, scores = zip(*(scorer(split, choose, report) for scorer in scorers.values()), strict=True)
        rng = np.random.default_rng([seed, split, 1])
        found = _judge_split(picks, scores, member[report], resamples, confidence, rng)
        splits.append(dict(zip(scorers, found, strict=True)))
    return {name: _mean([split[name] for split in splits]) for name in scorers}


def _judge_split(
    picks: tuple[int, ...],
    scores: tuple[Float[np.ndarray, " b"], ...],
    member: Bool[np.ndarray, " b"],
    resamples: int,
    confidence: float,
    rng: np.random.Generator,
) -> list[Judged]:
    rocs = [resampled(column, member) for column in scores]
    # (rows, resamples, 5)
    draws = np.concatenate(
        [np.stack([roc.curve(w).all() for roc in rocs]) for w in bootstrap_weights(member, resamples, rng)], axis=1
    )
    values = [evaluate(column, member) for column in scores]
    exact = delong(np.stack(scores, axis=1), member)
    bounds = exact.intervals(confidence)
    return [
        Judged(
            picks=np.array([pick]),
            values=values[i],
            intervals=quantiles(draws[i], confidence),
            difference=values[i] - values[0],
            difference_intervals=quantiles(draws[i] - draws[0], confidence),
            auroc=bounds[i],
            auroc_difference=np.array(exact.difference(i, 0, confidence)[1:]),
            first=scores[i],
        )
        for i, pick in enumerate(picks)
    ]


def _mean(splits: list[Judged]) -> Judged:
    def mean(name: str) -> np.ndarray:
        return np.mean([getattr(split, name) for split in splits], axis=0)

    return Judged(
        picks=np.concatenate([split.picks for split in splits]),
        values=mean("values"),
        intervals=mean("intervals"),
        difference=mean("difference"),
        difference_intervals=mean("difference_intervals"),
        auroc=mean("auroc"),
        auroc_difference=mean("auroc_difference"),
        first=splits[0].first,
    )
