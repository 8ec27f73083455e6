"""Held-out choices by repeated split-half: choose and fit on one half of the samples, report on the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from ldm_scale.analysis.delong import delong
from ldm_scale.analysis.metrics import aurocs, evaluate, quantiles, resampled_metrics, thinned_curve
from ldm_scale.analysis.results import Estimate, MetricSet, reported

# From a halving's number, the rows to choose by and the rows to report on: which candidate was chosen, and its scores
# (b,) of the rows to report on.
Scorer = Callable[[int, np.ndarray, np.ndarray], tuple[int, np.ndarray]]
Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Judged:
    """What one scorer's held-out choice reaches, over r halvings.

    picks: (r,) the candidate chosen on each halving. values: (5,) metrics of NAMES. intervals: (5, 2) low and high.
    difference, difference_intervals: values and intervals of these metrics minus the baseline's on the same samples.
    auroc, auroc_difference: (2,) the bounds of DeLong's interval of the AUROC and of its difference. curve: (FPR,
    TPR) of the reported half on the first halving, thinned.
    """

    picks: Int[np.ndarray, " r"]
    values: Float[np.ndarray, " 5"]
    intervals: Float[np.ndarray, "5 2"]
    difference: Float[np.ndarray, " 5"]
    difference_intervals: Float[np.ndarray, "5 2"]
    auroc: Float[np.ndarray, " 2"]
    auroc_difference: Float[np.ndarray, " 2"]
    curve: Float[np.ndarray, "p 2"]

    @property
    def pick(self) -> int:
        """The candidate chosen most often."""
        return most_often(self.picks)

    @property
    def agreement(self) -> float:
        """The share of the halvings that chose it."""
        return float((self.picks == self.pick).mean())

    @property
    def metrics(self) -> MetricSet:
        return MetricSet.of(self.values, self.intervals)

    @property
    def delong(self) -> Estimate:
        return Estimate.of(self.values[0], self.auroc)

    def differences(self, paired: bool) -> dict[str, Any]:
        """What it has more than the baseline, by the names that results have; nothing of the baseline itself."""
        if not paired:
            return {"difference": None, "delong_difference": None}
        return {
            "difference": MetricSet.of(self.difference, self.difference_intervals),
            "delong_difference": Estimate.of(self.difference[0], self.auroc_difference),
        }


def most_often(picks: Int[np.ndarray, " r"]) -> int:
    """The candidate that was chosen most often, the first of equal ones.

    >>> most_often(np.array([4, 2, 4, 2, 0]))
    2
    """
    return int(np.bincount(picks).argmax())


def halves(
    member: Bool[np.ndarray, " n"], seed: int, halving: int
) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
    """Two random halves of the samples, each with half of the members and half of the held-out samples.

    Args:
        halving: its number, from 0.

    Returns:
        The rows to choose by and the rows to report on, each in ascending order; every row is in one of them.

    >>> member = np.array([True, True, True, False, False])
    >>> choose, report = halves(member, seed=0, halving=0)
    >>> len(choose), len(report), member[choose].sum().item(), member[report].sum().item()
    (2, 3, 1, 2)
    """
    rng = np.random.default_rng([seed, halving])
    sides = [rng.permutation(np.flatnonzero(side)) for side in (member, ~member)]
    choose = np.concatenate([side[: -reported(len(side))] for side in sides])
    report = np.concatenate([side[-reported(len(side)) :] for side in sides])
    return np.sort(choose), np.sort(report)


def choosing(member: Bool[np.ndarray, " n"], repeats: int, seed: int) -> Bool[np.ndarray, "r n"]:
    """Which samples are in the half to choose by, on each of r = `repeats` halvings; arguments as of `halves`."""
    chosen = np.zeros((repeats, len(member)), dtype=bool)
    for halving, row in enumerate(chosen):
        row[halves(member, seed, halving)[0]] = True
    return chosen


def best(candidates: Float[np.ndarray, "a m"], member: Bool[np.ndarray, " a"]) -> int:
    """The number of the candidate (column) with the highest AUROC, the first of equal ones.

    >>> best(np.array([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0]]), np.array([True, False]))
    1
    """
    return int(aurocs(candidates, member).argmax())


def choice_among(scores: Float[np.ndarray, "t n"], member: Bool[np.ndarray, " n"]) -> Scorer:
    """The held-out choice among t scores of n samples: that of the highest AUROC on the choosing half."""
    return lambda _, choose, report: (pick := best(scores[:, choose].T, member[choose]), scores[pick, report])


def judge(
    scorers: dict[Name, Scorer],
    member: Bool[np.ndarray, " n"],
    repeats: int,
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[Name, Judged]:
    """The metrics of each scorer's held-out choice: means over halvings of what one half's choice reaches on the other.

    On each halving every scorer chooses (and fits) on one half and is judged on the other half, all of them on the same
    bootstrap resamples, so that differences to the first scorer (the baseline) are paired. Interval bounds are means
    of the halvings' bounds. They are conservative: as wide as one half makes them, while the mean uses every sample.

    Args:
        scorers: by name, the baseline first.
        member: who is a member; at least four samples of each side, as a variance needs two of a half.
        repeats: random halvings.
        resamples: bootstrap resamples of each reported half.
    """
    found = [
        judge_halving([[*scorers.values()]], member, halving, resamples, confidence, seed)[0]
        for halving in range(repeats)
    ]
    return dict(zip(scorers, over_halvings(found), strict=True))


def judge_halving(
    families: Sequence[Sequence[Scorer]],
    member: Bool[np.ndarray, " n"],
    halving: int,
    resamples: int,
    confidence: float,
    seed: int,
) -> list[list[Judged]]:
    """One halving of `judge`, for families of scorers with a baseline each; all of them on the same resamples."""
    choose, report = halves(member, seed, halving)
    judged = [[scorer(halving, choose, report) for scorer in family] for family in families]
    labels, rng = member[report], np.random.default_rng([seed, halving, 1])
    draws = resampled_metrics([scores for family in judged for _, scores in family], labels, resamples, rng)
    found = []
    for family in judged:
        found.append(_compare(family, draws[: len(family)], labels, halving, confidence))
        draws = draws[len(family) :]
    return found


def _compare(
    family: list[tuple[int, Float[np.ndarray, " b"]]],
    draws: Float[np.ndarray, "k s 5"],
    member: Bool[np.ndarray, " b"],
    halving: int,
    confidence: float,
) -> list[Judged]:
    """Picks and scores on one halving, and their metrics on each resample, compared with the first."""
    values = [evaluate(scores, member) for _, scores in family]
    exact = delong(np.stack([scores for _, scores in family], axis=1), member)
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
            curve=thinned_curve(scores, member) if halving == 0 else np.empty((0, 2)),
        )
        for i, (pick, scores) in enumerate(family)
    ]


def over_halvings(halvings: Sequence[Sequence[Judged]]) -> list[Judged]:
    """What each scorer of a family reaches over all halvings, from what it reaches on each; in their order."""
    return [_mean(judged) for judged in zip(*halvings, strict=True)]


def _mean(halvings: Sequence[Judged]) -> Judged:
    averaged = ("values", "intervals", "difference", "difference_intervals", "auroc", "auroc_difference")
    return Judged(
        picks=np.concatenate([judged.picks for judged in halvings]),
        curve=halvings[0].curve,
        **{name: np.mean([getattr(judged, name) for judged in halvings], axis=0) for name in averaged},
    )
