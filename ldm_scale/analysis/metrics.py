"""Membership metrics from scores (higher means member; positives are members), with bootstrap intervals."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

# Elements of one block of bootstrap weights, or of ranked scores: 128 MB of float64.
BLOCK = 1 << 24

NAMES = ("auroc", "asr", "tpr_at_1pct_fpr", "tpr_at_01pct_fpr", "paper_tpr_at_1pct_fpr")


@dataclass(frozen=True)
class Curve:
    """Receiver operating characteristic; row r of each array is one weighting of the samples.

    fpr, tpr: (r, g + 1), from (0, 0) to (1, 1), one point for each group of equal scores, highest first.
    """

    fpr: Float[np.ndarray, "r g"]
    tpr: Float[np.ndarray, "r g"]

    def auroc(self) -> Float[np.ndarray, " r"]:
        """Area under the curve: P(member's score > held-out's) + P(equal) / 2."""
        return np.trapezoid(self.tpr, self.fpr, axis=1)

    def asr(self) -> Float[np.ndarray, " r"]:
        """Attack success rate: max over thresholds of (TPR + 1 - FPR) / 2."""
        return ((self.tpr + 1 - self.fpr) / 2).max(axis=1)

    def tpr_at(self, fpr: float) -> Float[np.ndarray, " r"]:
        """TPR at the lowest threshold whose FPR is at most `fpr`; conservative, not interpolated."""
        return np.where(self.fpr <= fpr + 1e-12, self.tpr, 0).max(axis=1)

    def paper_tpr_at(self, fpr: float) -> Float[np.ndarray, " r"]:
        """The same with held-out samples as positives, as the paper's scripts have it.

        The share of held-out samples below the highest threshold that has at most a share `fpr` of members below it.
        """
        return np.where(1 - self.tpr <= fpr + 1e-12, 1 - self.fpr, 0).max(axis=1)

    def all(self) -> Float[np.ndarray, "r 5"]:
        """The metrics of NAMES, in that order."""
        rates = [self.tpr_at(0.01), self.tpr_at(0.001), self.paper_tpr_at(0.01)]
        return np.stack([self.auroc(), self.asr(), *rates], axis=1)


class Roc:
    """Scores sorted once, so that any number of weightings of the samples costs a cumulative sum each."""

    def __init__(self, scores: Float[np.ndarray, " n"], member: Bool[np.ndarray, " n"]) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ordered = scores[self._order]
        self._ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
        self._member = member

    def curve(self, weights: Float[np.ndarray, "r n"] | None = None) -> Curve:
        """The curve under each row of sample weights; every sample once by default."""
        if weights is None:
            weights = np.ones((1, len(self._member)))
        return Curve(self._rate(weights, ~self._member), self._rate(weights, self._member))

    def _rate(self, weights: Float[np.ndarray, "r n"], positive: Bool[np.ndarray, " n"]) -> Float[np.ndarray, "r g"]:
        counts = np.cumsum((weights * positive)[:, self._order], axis=1)[:, self._ends]
        return np.concatenate([np.zeros((len(counts), 1)), counts / counts[:, -1:]], axis=1)


def evaluate(scores: Float[np.ndarray, " n"], member: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " 5"]:
    """The metrics of NAMES on all samples."""
    return Roc(scores, member).curve().all()[0]


def aurocs(scores: Float[np.ndarray, "n k"], member: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " k"]:
    """The AUROC of each column: (sum of the members' ranks - m (m + 1) / 2) / (m h), equal scores sharing a mean rank.

    m members, h held-out samples (Mann & Whitney 1947). The fast form for many candidate scores.
    """
    members = int(member.sum())
    width = max(1, BLOCK // len(member))
    blocks = (scores[:, start : start + width] for start in range(0, scores.shape[1], width))
    ranks = [rankdata(block.astype(np.float64), axis=0)[member].sum(axis=0) for block in blocks]
    return (np.concatenate(ranks) - members * (members + 1) / 2) / (members * (len(member) - members))


def quantiles(draws: Float[np.ndarray, "r k"], confidence: float) -> Float[np.ndarray, "k 2"]:
    """The percentile interval (low, high) of each column of bootstrap draws."""
    tail = (1 - confidence) / 2
    return np.quantile(draws, [tail, 1 - tail], axis=0).T


def bootstrap_weights(
    member: Bool[np.ndarray, " n"], resamples: int, rng: np.random.Generator
) -> Iterator[Float[np.ndarray, "r n"]]:
    """How often each sample is drawn in each resample, members and held-out resampled apart; in blocks of rows."""
    rows = max(1, min(resamples, BLOCK // len(member)))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        weights = np.zeros((count, len(member)))
        for side in (member, ~member):
            size = int(side.sum())
            weights[:, side] = rng.multinomial(size, np.full(size, 1 / size), size=count)
        yield weights


def bootstrap(
    scores: Float[np.ndarray, " n"], member: Bool[np.ndarray, " n"], resamples: int, confidence: float, seed: int
) -> Float[np.ndarray, "5 2"]:
    """Percentile intervals (low, high) of the metrics of NAMES from a stratified bootstrap."""
    roc = Roc(scores, member)
    rng = np.random.default_rng(seed)
    draws = [roc.curve(weights).all() for weights in bootstrap_weights(member, resamples, rng)]
    return quantiles(np.concatenate(draws), confidence)
