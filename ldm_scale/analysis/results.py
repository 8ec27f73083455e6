"""results.json: every key documented. All rates are shares in [0, 1]; positives are members.

A number is null if there are too few samples for it.
"""

import math
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ldm_scale.config.base import Record

MaskName = Literal["none", "lowest", "global", "random", "highest"]
# JSON has no NaN, and pydantic writes null.
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
RowName = Literal["plain", "lowest", "global", "random", "highest", "chosen", "geometry"]
PaperRowName = Literal["plain", "lowest", "random", "highest"]


def reported(count: int) -> int:
    """How many of `count` samples of one side are in the half that is reported on: the larger half.

    >>> reported(600), reported(7)
    (300, 4)
    """
    return count - count // 2


def is_trusted(level: float, count: int) -> bool:
    """Whether a rate at this false positive rate rests on enough samples, `count` of a side: ten may be misjudged.

    >>> is_trusted(0.01, 2000), is_trusted(0.01, 1998)
    (True, False)
    """
    return reported(count) >= 10 / level


class Estimate(Record):
    """A value with its interval."""

    value: Number
    low: Number
    high: Number

    @classmethod
    def of(cls, value: float, bounds: Iterable[float]) -> "Estimate":
        """A value with the bounds (low, high) of its interval."""
        low, high = bounds
        return cls(value=value, low=low, high=high)


class MetricSet(Record):
    """The metrics of one score on some samples, or the differences of two scores' metrics; bootstrap intervals.

    Values are exact. Of more than 20,000 samples, the resamples' AUROC and ASR are short by about 1/8,192 at most.
    """

    auroc: Estimate = Field(description="area under the ROC curve; 0.5 is chance")
    asr: Estimate = Field(description="attack success rate: max over thresholds of (TPR + 1 - FPR) / 2; 0.5 is chance")
    tpr_at_1pct_fpr: Estimate = Field(description="members found while at most 1% of held-out samples are misjudged")
    tpr_at_01pct_fpr: Estimate = Field(description="members found while at most 0.1% of held-out samples are misjudged")
    paper_tpr_at_1pct_fpr: Estimate = Field(
        description="held-out samples found while at most 1% of members are misjudged: what the paper's tables call "
        "TPR@1%FPR"
    )

    @classmethod
    def of(cls, values: Iterable[float], intervals: Iterable[Iterable[float]]) -> "MetricSet":
        """The metrics in the order of their names, or differences of them, with the bounds of their intervals."""
        pairs = zip(cls.model_fields, values, intervals, strict=True)
        return cls(**{name: Estimate.of(value, bounds) for name, value, bounds in pairs})


class Choice(Record):
    """A timestep and the dimensions left out, with the metrics they give."""

    timestep: int | None = Field(description="none: the mean over all the attack's timesteps")
    mask: MaskName = Field(description="which dimensions are left out")
    drop: Number = Field(description="share of dimensions left out")
    metrics: MetricSet
    delong: Estimate = Field(description="AUROC with DeLong's interval")


class HeldoutChoice(Choice):
    """Chosen on one half of the samples, metrics on the other; means over analysis.repeats random halvings."""

    agreement: Number = Field(description="share of the halvings that chose this timestep, mask and drop")
    difference: MetricSet | None = Field(
        description="minus the plain row's metrics, paired: on the same halves and resamples; none for plain itself"
    )
    delong_difference: Estimate | None = Field(
        description="AUROC minus the plain row's with DeLong's paired interval; none for plain itself"
    )


class Headline(Record):
    """One line of the headline table."""

    attack: str
    row: RowName = Field(
        description="plain drops nothing; lowest, global, random and highest drop analysis.drop; chosen picks the "
        "share, and whether the lowest or the highest go; geometry is plain minus what the sample's geometry predicts"
    )
    heldout_choice: HeldoutChoice = Field(description="lead with this")
    oracle: Choice | None = Field(
        description="chosen on the very samples it reports: the papers' way, optimistic; none for fitted scores"
    )


class Point(Record):
    """One point of a curve of AUROC over all samples."""

    attack: str
    mask: MaskName
    drop: Number
    timestep: int | None
    auroc: Number


class BinPoint(Record):
    """AUROC of one influence bin alone, over all samples, at the plain row's timestep."""

    attack: str
    bin: int = Field(description="0 holds the lowest influences")
    timestep: int | None
    auroc: Estimate = Field(description="with DeLong's interval")


class DistortionGroup(Record):
    """AUROC among samples of like distortion (log sqrt det G), members and held-out together."""

    attack: str
    row: Literal["plain", "lowest"]
    groups: Literal[2, 4] = Field(description="2: halves, 4: quartiles")
    group: int = Field(description="1 is the least distorted")
    low: Number = Field(description="lowest distortion in it, nats")
    high: Number = Field(description="highest distortion in it, nats")
    members: int
    heldout: int
    timestep: int | None
    drop: Number
    auroc: Estimate | None = Field(description="none if one side is empty")


class PaperCell(Record):
    """A metric at the timestep at which it is highest."""

    value: float
    timestep: int | None = Field(description="the first of equal ones; none: the mean over all the attack's timesteps")


class PaperGroup(Record):
    """AUROC among samples of like distortion, at the best timestep for this group."""

    groups: Literal[2, 4] = Field(description="2: halves, 4: quartiles; the same as by_distortion's")
    group: int = Field(description="1 is the least distorted")
    auroc: PaperCell | None = Field(description="none if one side is empty")


class PaperRow(Record):
    """One line of the paper's own table, by the rules of its authors' published code.

    Optimistic: every cell has its own best timestep, on the very samples that it is reported of. The headline has one
    timestep for all metrics of a row, chosen on one half of the samples and measured on the other.
    """

    attack: str
    row: PaperRowName = Field(
        description="plain drops nothing; lowest drops the ceil(q D) dimensions of lowest influence; random floor(q D) "
        "at random, highest the floor(q D) of highest influence"
    )
    drop: float = Field(description="q, the share of the D dimensions left out")
    auroc: PaperCell
    asr: PaperCell = Field(description="attack success rate, as the headline's")
    tpr_at_1pct_fpr: PaperCell = Field(
        description="held-out samples found while strictly less than 1% of members are misjudged: none of up to 100; "
        "the headline's tpr_at_1pct_fpr is of members, at 1% of held-out samples or less"
    )
    by_distortion: tuple[PaperGroup, ...] = Field(description="empty if too few samples have a distortion")


class RocPoint(Record):
    """One point of a headline row's ROC curve, on the reported half of the first halving."""

    attack: str
    row: RowName
    fpr: Number
    tpr: Number


class ScoredSample(Record):
    """A sample of those of its side that the attack takes for members most surely."""

    sample_id: str
    attack: str
    score: Number = Field(description="minus log10 of the statistic at the held-out choice; higher means member")
    heldout_above: int = Field(description="held-out samples with a higher score")
    bound: Number = Field(
        description="their share of such samples at large is below this, at 95%: the exact binomial bound"
    )


class DatasetInference(Record):
    """p that suspects not trained on would score so far above held-out samples: Welch's t-tests of combined scores.

    Every half of every halving is tested by a fit on the other half.
    """

    p_value: Number = Field(
        description="twice the median of the tests' p-values, at most 1; one-sided. If the target never saw the "
        "members, it is a or less with a chance of a at most"
    )
    statistic: Number = Field(description="median of Welch's t over the tests")
    tests: int = Field(description="halves tested: two a halving")
    detectable: Number = Field(
        description="the AUROC of the scores from which on so many samples give p <= 0.05 in four of five cases"
    )
    members: int = Field(description="in either half")
    heldout: int = Field(description="likewise")


class Combined(Record):
    """One score from all attacks and timesteps: logistic regression over log spectra, fitted on the other half.

    On 50,000 samples of it at random, if it has more.
    """

    features: int
    metrics: MetricSet = Field(description="means over the halvings; the same halves as the headline's")
    delong: Estimate = Field(description="AUROC with DeLong's interval")
    inference: DatasetInference


class Telltale(Record):
    """A plain feature that tells members from held-out samples by itself."""

    feature: str
    kind: str | None = Field(description="of a feature that has kinds: which one; none of a quantity")
    members: Number = Field(description="median over members, or the share of them that is of this kind")
    heldout: Number = Field(description="the same of held-out samples")
    auroc: float | None = Field(
        description="of the quantity by itself, below 0.5 if it is lower in members; none of kinds"
    )
    p_value: Number = Field(
        description="twice the lesser of Kolmogorov and Smirnov's tests of values and of their distances from the "
        "median, or Fisher's exact test times the number of kinds; times the number of features"
    )


class BlindControl(Record):
    """Whether members are told from held-out samples without the denoiser: the combined score's test on plain features.

    If they are, p-values of the model's scores prove nothing about training.
    """

    features: tuple[str, ...] = Field(description="what was looked at")
    auroc: Estimate = Field(description="mean over the halvings, DeLong's interval")
    inference: DatasetInference
    p_value: Number = Field(
        description="twice the lesser of inference.p_value and the least p of any feature, at most 1: below 0.05, the "
        "sides are told apart"
    )
    told_by: tuple[Telltale, ...] = Field(description="with p below 0.05, the clearest first")


class RelativeRow(Record):
    """An attack's scores relative to a reference model: log statistic of the reference minus that of the target."""

    attack: str
    heldout_choice: HeldoutChoice = Field(
        description="nothing is left out; minus the target's plain row on the same samples, each with its own timestep"
    )
    reference: Estimate = Field(
        description="AUROC of the reference's own plain scores, by a held-out choice, with DeLong's interval: away "
        "from 0.5 the sides differ in more than the target's training"
    )
    members_lower: Number = Field(
        description="share of members whose statistic is lower in the target than in the reference, at this timestep"
    )
    heldout_lower: Number = Field(description="the same of held-out samples")


class Relative(Record):
    """The target beside a reference model, sample by sample on the same draws."""

    target: str = Field(description="SHA-256 of the reference model")
    fingerprint: str = Field(description="of everything the reference's rows depend on")
    members: int = Field(description="members that both have a row of")
    heldout: int = Field(description="likewise")
    left_out: int = Field(description="samples that one of the two rejected")
    rows: tuple[RelativeRow, ...] = Field(description="one an attack")


class Leakage(Record):
    """Whether the dimensions of high influence are those that leak."""

    attack: str
    timestep: int
    correlation: Estimate = Field(
        description="Spearman's, over dimensions, of mean influence and the AUROC of |S_i| alone; jackknife interval. "
        "Noise in the AUROCs pulls it towards zero, so that it is a lower bound in size"
    )


class Stability(Record):
    """How well influences from one half of the probes agree with those from the other half."""

    correlation: Number = Field(description="Spearman's over dimensions, mean over samples")
    overlap: Number = Field(description="share of the lowest 40% of one half that the other names, mean over samples")
    probes: int = Field(description="probes of both halves together; a full estimate is steadier than either half")


class DistortionEstimate(Record):
    """Distortion of the samples in which it was not measured: slope * (sum of the influences) + intercept.

    The line is fitted to the measured ones. If there are fewer than eight, it is the sum itself for all samples: an
    upper bound of log sqrt det G (Hadamard's inequality).
    """

    samples: int = Field(description="rows whose distortion is estimated")
    slope: Number = Field(description="nats of distortion a nat of the sum")
    intercept: Number = Field(description="nats")
    correlation: Number = Field(
        description="Spearman's, over the measured samples: distortion, and what a line through the others says"
    )
    residual: Number = Field(description="root of the mean square of their difference, nats")
    spread: Number = Field(description="standard deviation of the measured distortions, nats")


class Results(Record):
    """All results of one run."""

    format: Literal[6] = 6
    fingerprint: str = Field(description="of everything the rows depend on")
    inputs: dict[str, str] = Field(description="SHA-256 of the audited shards, split and target")
    members: int = Field(description="member rows")
    heldout: int = Field(description="held-out rows")
    expected: int = Field(description="samples the run was to audit")
    rejected: dict[str, int] = Field(description="rejected samples by stage and reason")
    distortion_measured: int = Field(description="rows whose distortion was measured")
    distortion_estimate: DistortionEstimate | None = Field(
        description="of the other rows; none if all were measured, or if geometry.distortion is off"
    )
    stability: Stability | None = Field(description="of the influences; none if they are exact or of one probe")
    repeats: int = Field(description="random halvings behind each held-out choice")
    bootstrap: int
    confidence: Number
    headline: tuple[Headline, ...]
    paper: tuple[PaperRow, ...] = Field(
        description="the paper's own table, by its authors' rules and not by ours: optimistic, for use beside the "
        "paper's numbers only"
    )
    combined: Combined
    blind: BlindControl | None = Field(
        description="by class, captions, image size, format, bytes, colours, latent and geometry; none if the rows are "
        "of a version that kept none of these"
    )
    names: BlindControl | None = Field(
        description="by names alone, which a model never sees; none if all are alike but for their folders"
    )
    relative: Relative | None = Field(None, description="none if there is no finished audit of a reference model")
    leakage: Leakage
    by_timestep: tuple[Point, ...] = Field(description="plain, and analysis.drop lowest, at each timestep")
    by_drop: tuple[Point, ...] = Field(description="each drop share and mask, at the plain row's held-out timestep")
    by_bin: tuple[BinPoint, ...]
    by_distortion: tuple[DistortionGroup, ...] = Field(
        description="all samples with a distortion, measured or estimated, at the held-out choices of plain and lowest"
    )
    roc: tuple[RocPoint, ...]
    at_risk: tuple[ScoredSample, ...] = Field(description="ten members most at risk, by the first attack's chosen row")
    highest_heldout: tuple[ScoredSample, ...] = Field(description="the ten held-out samples that it scores highest")
    warnings: tuple[str, ...] = Field(description="numbers not to trust, and why")
    versions: dict[str, str] = Field(description="software the rows were made with")
