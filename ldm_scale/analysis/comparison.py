"""comparison.json: every key documented; see results for the metrics."""

from pydantic import Field

from ldm_scale.analysis.results import Estimate, MetricSet, Number, RowName
from ldm_scale.config.base import Record


class ComparedRun(Record):
    """One of the runs, by itself: what its own results say."""

    run: str = Field(description="its directory")
    fingerprint: str
    members: int = Field(description="member rows of the run, compared or not")
    heldout: int = Field(description="likewise")
    p_value: Number = Field(description="that the target never saw the members: dataset inference of the run's results")


class ComparedRow(Record):
    """A row of an attack in one of the runs, on the samples that all of them have."""

    attack: str
    row: RowName
    run: int = Field(description="its place among the runs, from 0")
    timestep: int | None = Field(description="chosen on most halvings; none: the mean over all the attack's timesteps")
    metrics: MetricSet = Field(description="held-out choice: means over the halvings, the same for all runs")
    difference: MetricSet | None = Field(
        description="minus the first run's, paired: on the same halves and resamples; none for the first run"
    )
    delong_difference: Estimate | None = Field(description="AUROC's, with DeLong's paired interval")


class Agreement(Record):
    """Whether two runs find the same members at risk: by an attack's plain scores, each at its own timestep."""

    attack: str
    run: int = Field(description="compared with the first run")
    correlation: Number = Field(description="Spearman's, of the members' scores in both runs")


class ChangedMember(Record):
    """A member whose risk is another than in the first run, by an attack's plain scores."""

    attack: str
    run: int
    sample_id: str
    before: Number = Field(description="share of held-out samples with a higher score in the first run")
    after: Number = Field(description="in this run")


class ComparedRanking(Record):
    """How alike the latent dimensions of two runs are ranked by mean influence."""

    run: int = Field(description="compared with the first run")
    correlation: Number = Field(description="Spearman's, over the dimensions")
    overlap: Number = Field(description="share of the lowest dimensions (analysis.drop of them) that both name")


class Comparison(Record):
    """All that is said of several runs over the same samples."""

    format: int = 1
    runs: tuple[ComparedRun, ...]
    members: int = Field(description="members that all runs have a row of")
    heldout: int = Field(description="held-out samples likewise")
    drop: float = Field(description="share of the dimensions that the rows leave out")
    repeats: int
    bootstrap: int
    confidence: float
    rows: tuple[ComparedRow, ...]
    agreement: tuple[Agreement, ...]
    changed: tuple[ChangedMember, ...] = Field(description="those that changed most, for each run and attack")
    rankings: tuple[ComparedRanking, ...] = Field(description="of runs whose latents have the first one's shape")
    warnings: tuple[str, ...]
