"""results.json: every key documented. All rates are shares in [0, 1]; positives are members."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MaskName = Literal["none", "lowest", "random", "highest"]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(Record):
    """A value with its bootstrap interval."""

    value: float
    low: float
    high: float


class MetricSet(Record):
    """The metrics of one score on some samples."""

    auroc: Estimate = Field(description="area under the ROC curve; 0.5 is chance")
    asr: Estimate = Field(description="attack success rate: max over thresholds of (TPR + 1 - FPR) / 2; 0.5 is chance")
    tpr_at_1pct_fpr: Estimate = Field(description="members found while at most 1% of held-out samples are misjudged")
    tpr_at_01pct_fpr: Estimate = Field(description="members found while at most 0.1% of held-out samples are misjudged")


class Choice(Record):
    """A timestep and a drop share, with the metrics they give."""

    timestep: int
    drop: float = Field(description="share of dimensions left out")
    metrics: MetricSet


class Headline(Record):
    """One line of the headline table."""

    attack: str
    row: Literal["plain", "lowest", "random", "highest", "chosen"] = Field(
        description="plain drops nothing; lowest, random and highest drop analysis.drop; chosen picks the share too"
    )
    calibrated: Choice = Field(description="chosen on one half of the samples, metrics on the other: lead with this")
    oracle: Choice = Field(description="chosen on the very samples it reports: the papers' way, optimistic")


class Point(Record):
    """One point of a curve of AUROC over all samples."""

    attack: str
    mask: MaskName
    drop: float
    timestep: int
    auroc: float


class DistortionGroup(Record):
    """AUROC among the samples of one quartile of distortion (log sqrt det G), members and held-out together."""

    attack: str
    row: Literal["plain", "lowest"]
    quartile: int = Field(description="1 is the least distorted quarter")
    low: float = Field(description="lowest distortion in it, nats")
    high: float = Field(description="highest distortion in it, nats")
    members: int
    heldout: int
    timestep: int
    drop: float
    auroc: Estimate | None = Field(description="none where one side is empty")


class RocPoint(Record):
    """One point of a headline row's ROC curve, on the samples its calibrated metrics are reported on."""

    attack: str
    row: str
    fpr: float
    tpr: float


class RiskyMember(Record):
    """A member the attack finds most surely."""

    sample_id: str
    attack: str
    score: float = Field(description="minus log10 of the statistic at the calibrated choice; higher means member")
    heldout_above: float = Field(description="share of held-out samples with a higher score")


class Results(Record):
    """All results of one run."""

    format: Literal[1] = 1
    fingerprint: str = Field(description="of everything the rows depend on")
    inputs: dict[str, str] = Field(description="SHA-256 of the audited shards, split and target")
    members: int = Field(description="member rows")
    heldout: int = Field(description="held-out rows")
    expected: int = Field(description="samples the run was to audit")
    rejected: dict[str, int] = Field(description="rejected samples by stage and reason")
    distortion_measured: int = Field(description="rows with a distortion")
    bootstrap: int
    confidence: float
    headline: tuple[Headline, ...]
    by_timestep: tuple[Point, ...] = Field(description="plain, and analysis.drop lowest, at each timestep")
    by_drop: tuple[Point, ...] = Field(description="each drop share and mask, at the plain row's calibrated timestep")
    by_distortion: tuple[DistortionGroup, ...] = Field(
        description="all samples with a distortion, at the calibrated choices of plain and lowest"
    )
    roc: tuple[RocPoint, ...]
    at_risk: tuple[RiskyMember, ...] = Field(description="ten members most at risk, by the first attack's chosen row")
    warnings: tuple[str, ...] = Field(description="numbers not to trust, and why")
    versions: dict[str, str] = Field(description="software the rows were made with")
