"""What the paper claims, and whether a run agrees: the intervals decide the words."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ldm_scale.analysis.results import DistortionGroup, Estimate, Headline, Results, is_trusted
from ldm_scale.report.headline import attacks_of, rows_of
from ldm_scale.report.labels import share_label
from ldm_scale.report.verdict import strongest

CLAIMS = (
    "The paper claims that dropping the 40% of latent dimensions with the lowest influence raises AUROC, by 1 to 4 "
    "points, and TPR at 1% FPR; that dropping as many at random lowers AUROC; and that images of high distortion are "
    "memorised more."
)
Answer = Literal["agrees on", "disagrees on", "cannot tell on"]
ANSWERS: tuple[Answer, ...] = ("agrees on", "disagrees on", "cannot tell on")


@dataclass(frozen=True)
class Finding:
    """What a run measured of one claim: a change, None if it was not measured; the paper says that it is `positive`."""

    subject: str
    change: Estimate | None
    positive: bool = True

    @property
    def answer(self) -> Answer:
        """Agreement or disagreement only if the interval lies wholly on one side of zero.

        >>> Finding("AUROC", Estimate(value=0.02, low=0.01, high=0.03)).answer
        'agrees on'
        """
        # Of numbers that are none, with too few samples, no comparison holds.
        if self.change is None or not (self.change.low > 0 or self.change.high < 0):
            return "cannot tell on"
        return "agrees on" if (self.change.low > 0) == self.positive else "disagrees on"

    def __str__(self) -> str:
        if self.change is None or math.isnan(self.change.value):
            return f"{self.subject} (not judged)"
        return f"{self.subject} ({self.change.value:+.3f}, {self.change.low:+.3f} to {self.change.high:+.3f})"


def difference(one: Estimate, other: Estimate) -> Estimate:
    """One minus the other, of disjoint samples, with the interval that follows from theirs.

    The distances from value to bound add up as squares (Zou & Donner, Statistics in Medicine 2008).

    >>> difference(Estimate(value=0.75, low=0.72, high=0.79), Estimate(value=0.25, low=0.22, high=0.29))
    Estimate(value=0.5, low=0.45, high=0.55)
    """
    value = one.value - other.value
    below = math.hypot(one.value - one.low, other.high - other.value)
    above = math.hypot(one.high - one.value, other.value - other.low)
    return Estimate(value=value, low=value - below, high=value + above)


def distortion_gap(groups: Iterable[DistortionGroup], attack: str) -> Estimate | None:
    """The plain AUROC in the highest quartile of distortion minus that in the lowest; None if either has none."""
    quartiles = {g.group: g.auroc for g in groups if (g.attack, g.row, g.groups) == (attack, "plain", 4)}
    low, high = quartiles.get(1), quartiles.get(4)
    return None if low is None or high is None else difference(high, low)


def _change(row: Headline, metric: str) -> Estimate | None:
    """A metric of a row minus that of the plain row, paired."""
    found = row.heldout_choice.difference
    return None if found is None else getattr(found, metric)


def findings(results: Results, attack: str) -> list[Finding]:
    """What one attack's held-out choices measured of each claim, in the order of CLAIMS; no TPR of too few samples."""
    rows = rows_of(results, attack)
    # It is of the held-out samples that are found while 1% of members are misjudged.
    trusted = is_trusted(0.01, results.members)
    return [
        Finding("AUROC", _change(rows["lowest"], "auroc")),
        Finding("TPR", _change(rows["lowest"], "paper_tpr_at_1pct_fpr") if trusted else None),
        Finding("the random control", _change(rows["random"], "auroc"), positive=False),
        Finding("distortion", distortion_gap(results.by_distortion, attack)),
    ]


def in_words(found: Iterable[Finding]) -> str:
    """The findings by answer."""
    subjects = {answer: [str(finding) for finding in found if finding.answer == answer] for answer in ANSWERS}
    return "; ".join(f"{answer} {' and '.join(said)}" for answer, said in subjects.items() if said)


def filtered(results: Results) -> list[str]:
    """The attacks whose AUROC depends on what is dropped; that of PFAMI as published does not."""
    kinds = ("plain", "lowest", "random", "highest")
    aurocs = {
        attack: {rows_of(results, attack)[kind].heldout_choice.metrics.auroc for kind in kinds}
        for attack in attacks_of(results)
    }
    return [attack for attack, found in aurocs.items() if len(found) > 1]


def _tally(results: Results, attacks: list[str]) -> str:
    """How many of several attacks agree on the first claim, as the strongest is only one of them."""
    if len(attacks) == 1:
        return ""
    answers = [findings(results, attack)[0].answer for attack in attacks]
    raised, lowered = answers.count("agrees on"), answers.count("disagrees on")
    return (
        f" Of the {len(attacks)} attacks that it can change, dropping the lowest clearly raises AUROC for {raised} and "
        f"clearly lowers it for {lowered}."
    )


def lede(results: Results) -> tuple[str, str]:
    """What the paper claims; and what this run says of each, by the strongest attack that dropping can change."""
    attacks = filtered(results) or attacks_of(results)
    lowest = strongest(results, attacks)["lowest"]
    attack, share = lowest.attack, share_label(lowest.heldout_choice.drop)
    said = in_words(findings(results, attack))
    return CLAIMS, f"For {attack} with {share} dropped, this run {said}.{_tally(results, attacks)}"
