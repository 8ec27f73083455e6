"""Membership metrics from scores (higher means member; positives are members), with bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Real
from scipy.sparse import csc_array

from ldm_scale.analysis.ranks import Ranks
from ldm_scale.analysis.resamples import TOGETHER, bootstrap_weights, is_large
from ldm_scale.analysis.results import MetricSet

# Weights of which a processor's cache holds all that is made of them.
CACHED = 1 << 17
# Cells between the two tails of a large set's curve.
CELLS = 1 << 13
# Points of a curve that is drawn, and the origin.
ROC_POINTS = 200
NAMES = tuple(MetricSet.model_fields)


@dataclass(frozen=True)
class Curve:
    """Receiver operating characteristic; row r of each array is one weighting of the samples.

    fpr, tpr: from (0, 0) to (1, 1), one point for each group of equal scores, the highest first.

    >>> curve = Roc(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False])).curve()
    >>> curve.fpr, curve.tpr
    (array([[0. , 0. , 0.5, 0.5, 1. ]]), array([[0. , 0.5, 0.5, 1. , 1. ]]))
    >>> curve.auroc(), curve.asr(), curve.tpr_at(0.1), curve.tpr_at(0.5)
    (array([0.75]), array([0.75]), array([0.5]), array([1.]))
    """

    fpr: Float[np.ndarray, "r g"]
    tpr: Float[np.ndarray, "r g"]

    def auroc(self) -> Float[np.ndarray, " r"]:
        """Area under the curve: P(member's score > held-out's) + P(equal) / 2, in [0, 1]; 0.5 is chance."""
        return np.trapezoid(self.tpr, self.fpr, axis=1)

    def asr(self) -> Float[np.ndarray, " r"]:
        """Attack success rate: max over thresholds of (TPR + 1 - FPR) / 2, in [0.5, 1]; 0.5 is chance."""
        rates = self.tpr + 1
        rates -= self.fpr
        return rates.max(axis=1) / 2

    def tpr_at(self, fpr: float) -> Float[np.ndarray, " r"]:
        """TPR at the lowest threshold whose FPR is at most `fpr`, a share in [0, 1]; not interpolated."""
        ends = [row.searchsorted(fpr + 1e-12, side="right") for row in self.fpr]
        return np.array([row[end - 1] for row, end in zip(self.tpr, ends, strict=True)])

    def paper_tpr_at(self, fpr: float) -> Float[np.ndarray, " r"]:
        """The same with held-out samples as positives, as the paper's scripts have it.

        The share of held-out samples below the highest threshold that has at most a share `fpr` of members below it.
        """
        points = [row.searchsorted(1 - fpr - 1e-12) for row in self.tpr]
        return 1 - np.array([row[point] for row, point in zip(self.fpr, points, strict=True)])

    def all(self) -> Float[np.ndarray, "r 5"]:
        """The metrics of NAMES, in that order."""
        rates = self.tpr_at(0.01), self.tpr_at(0.001), self.paper_tpr_at(0.01)
        return np.stack([self.auroc(), self.asr(), *rates], axis=1)


class Roc:
    """Scores sorted once, so that each weighting of the samples costs a cumulative sum."""

    def __init__(self, scores: Float[np.ndarray, " n"], member: Bool[np.ndarray, " n"]) -> None:
        self._order = np.argsort(-scores)
        ordered = scores[self._order]
        last = np.append(ordered[1:] != ordered[:-1], True)
        self._ends = slice(None) if last.all() else np.flatnonzero(last)
        self._ours = member[self._order]

    def curve(self, weights: Real[np.ndarray, "r n"] | None = None) -> Curve:
        """The curve under each row of sample weights; every sample once by default."""
        if weights is None:
            weights = np.ones((1, len(self._order)))
        ordered = weights.take(self._order, axis=1)
        ours, both = (
            np.cumsum(some, axis=1, dtype=np.float64)[:, self._ends] for some in (ordered * self._ours, ordered)
        )
        return Curve(_rate(both - ours), _rate(ours))


def _rate(counts: Float[np.ndarray, "r g"]) -> Float[np.ndarray, "r _"]:
    rate = np.zeros((len(counts), counts.shape[1] + 1))
    np.divide(counts, counts[:, -1:], out=rate[:, 1:])
    return rate


class CoarseRoc:
    """Scores gathered in cells of neighbours, so that the curve of a weighting costs one count and a point a cell.

    Both tails keep every point that decides a rate at a fixed error of 1% or less: those rates are exact. Between
    them a cell holds 1 / CELLS of both sides, so that AUROC and ASR of a curve are short by about 1 / CELLS at most.
    """

    def __init__(self, scores: Float[np.ndarray, " n"], member: Bool[np.ndarray, " n"]) -> None:
        order = np.argsort(-scores)
        ordered = scores[order]
        ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
        ours, theirs = (np.cumsum(side[order])[ends] for side in (member, ~member))
        # The upper left corners: after a group of equal scores with members, before one with held-out samples. Every
        # other point has a corner above it or left of it, however the samples are weighted.
        corner = np.append((np.diff(ours, prepend=0)[:-1] > 0) & (np.diff(theirs) > 0), True)
        tail = (theirs <= _tail(int(theirs[-1]))) | (ours[-1] - ours <= _tail(int(ours[-1])))
        number = (CELLS / 2 * (ours / ours[-1] + theirs / theirs[-1])).astype(np.int64)
        corners = np.flatnonzero(corner)
        kept = corners[tail[corners] | (np.diff(number[corners], append=-1) != 0)]
        # The cells of held-out samples, then those of members.
        code = np.empty(len(scores), dtype=np.int32)
        code[order] = np.repeat(np.arange(len(kept)), np.diff(ends[kept], prepend=-1))
        code[member] += len(kept)
        # What holds a cell's count in a resample, up to ten standard deviations above its own: mostly a byte.
        most = int(np.bincount(code).max())
        kind = np.min_scalar_type(most + int(10 * most**0.5))
        each = np.ones(len(scores), dtype=kind), code, np.arange(len(scores) + 1, dtype=np.int32)
        # A column a sample, with its weight for one of the cells' counts.
        self._sums = csc_array(each, shape=(2 * len(kept), len(scores)))

    def curve(self, weights: Real[np.ndarray, "r n"]) -> Curve:
        """The curve under each row of sample weights."""
        # A row a weighting in memory, too: what follows runs along it.
        counts = np.ascontiguousarray((self._sums @ weights.T).T)
        return Curve(*(_rate(side.cumsum(axis=1, dtype=np.float64)) for side in np.hsplit(counts, 2)))


def _tail(count: int) -> float:
    """Samples at an end of a side that hold a resample's 1%, up to ten standard deviations of its place."""
    return 0.01 * count + 10 * (0.01 * count) ** 0.5


def evaluate(scores: Float[np.ndarray, " n"], member: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " 5"]:
    """The metrics of NAMES on all samples.

    >>> values = evaluate(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False]))
    >>> dict(zip(NAMES[:3], values.tolist()))
    {'auroc': 0.75, 'asr': 0.75, 'tpr_at_1pct_fpr': 0.5}
    """
    return Ranks(scores, member).metrics()


def aurocs(scores: Float[np.ndarray, "n k"], member: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " k"]:
    """The AUROC of each column: P(member's score > held-out's) + P(equal) / 2.

    >>> aurocs(np.array([[3.0, 1.0], [2.0, 1.0], [1.0, 1.0]]), np.array([True, False, False]))
    array([1. , 0.5])
    """
    return np.array([Ranks(column, member).auroc() for column in scores.T])


def quantiles(draws: Float[np.ndarray, "r k"], confidence: float) -> Float[np.ndarray, "k 2"]:
    """The percentile interval (low, high) of each column of bootstrap draws, of this confidence in (0, 1).

    >>> quantiles(np.arange(101.0)[:, None], 0.9)
    array([[ 5., 95.]])
    """
    tail = (1 - confidence) / 2
    return np.quantile(draws, [tail, 1 - tail], axis=0).T


def thinned_curve(scores: Float[np.ndarray, " n"], member: Bool[np.ndarray, " n"]) -> Float[np.ndarray, "p 2"]:
    """Points (FPR, TPR) of the curve, evenly in log FPR, where the low rates are; the last point of each step is kept.

    >>> thinned_curve(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False]))
    array([[0. , 0.5],
           [0.5, 1. ],
           [1. , 1. ]])
    """
    curve = Roc(scores, member).curve()
    wanted = np.concatenate([[0.0], np.geomspace(1 / (~member).sum(), 1, ROC_POINTS)])
    kept = np.unique(np.searchsorted(curve.fpr[0], wanted + 1e-12, side="right") - 1)
    return np.stack([curve.fpr[0, kept], curve.tpr[0, kept]], axis=1)


def bootstrap(
    scores: Sequence[Float[np.ndarray, " n"]],
    member: Bool[np.ndarray, " n"],
    resamples: int,
    confidence: float,
    seed: int,
) -> Float[np.ndarray, "k 5 2"]:
    """Percentile intervals (low, high) of the metrics of NAMES from a stratified bootstrap (Efron 1979).

    Args:
        resamples: draws of as many members and held-out samples as there are, with replacement.
        seed: of the draws, which are the same for all scores.
    """
    draws = resampled_metrics(scores, member, resamples, np.random.default_rng(seed))
    return np.stack([quantiles(some, confidence) for some in draws])


def resampled_metrics(
    scores: Sequence[Float[np.ndarray, " n"]], member: Bool[np.ndarray, " n"], resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "k r 5"]:
    """The metrics of NAMES of k scores on r bootstrap resamples, the same for all of them; large sets' coarsely.

    Args:
        resamples: r.
        rng: where the draws come from.
    """
    large = is_large(len(member))
    rocs = [(CoarseRoc if large else Roc)(column, member) for column in scores]
    rows = TOGETHER if large else max(1, CACHED // len(member))
    blocks = (
        block[start : start + rows]
        for block in bootstrap_weights(member, resamples, rng)
        for start in range(0, len(block), rows)
    )
    return np.concatenate([np.stack([roc.curve(weights).all() for roc in rocs]) for weights in blocks], axis=1)
