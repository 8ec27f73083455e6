"""A run as tables (pandas), read from its directory alone: no GPU, no Ray."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ldm_scale.analysis.metrics import NAMES
from ldm_scale.analysis.results import Headline, MetricSet, Results
from ldm_scale.analysis.scores import Candidate, Mask
from ldm_scale.config.audit import dropped_bins
from ldm_scale.engine.rows import Index, StoredRows, attack_rows, read_index
from ldm_scale.errors import UsageError, unknown_name
from ldm_scale.files.rundir import RunDirectory, RunRecord
from ldm_scale.files.storage import Location, read_table
from ldm_scale.report.headline import read_results


class Run:
    """A run directory, local or on S3, that an audit has written.

    A notebook shows its headline table.

    Args:
        address: of the run directory.

    Raises:
        UsageError: There is no run.
    """

    def __init__(self, address: str) -> None:
        self.directory = RunDirectory(Location.of(address))
        self.record: RunRecord = self.directory.read_record()

    def __repr__(self) -> str:
        record = self.record
        return f"Run({str(self.directory.root)!r}): {record.members} members, {record.heldout} held-out, " + ", ".join(
            record.timesteps
        )

    def _repr_html_(self) -> str:
        return cast(str, self.headline().to_html(index=False, float_format="{:.3f}".format, na_rep=""))

    @cached_property
    def results(self) -> Results:
        """results.json; raises UsageError if the run was not reduced yet."""
        return read_results(self.directory.reduction())

    @cached_property
    def index(self) -> Index:
        """The samples that have a row, sorted by id, and where their rows are.

        Raises:
            RunError: Something there is not the run's, or there are no rows.
        """
        return read_index(self.directory)

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks that were made."""
        return tuple(self.record.timesteps)

    def attack_rows(self, attack: str) -> StoredRows:
        """One attack's rows; raises UsageError if it was not made."""
        if attack not in self.attacks:
            raise unknown_name("attack", attack, self.attacks)
        return attack_rows(self.index, self.record, attack, self.record.config.analysis.average)

    def rows(self, columns: Sequence[str] = ("sample_id", "member", "distortion")) -> pd.DataFrame:
        """Columns of the rows as they were written, sorted by sample id; `schema.row_schema` says what each holds.

        Raises:
            UsageError: The rows have no such column.
        """
        names = self.record.schema.names
        if (stray := next((name for name in columns if name not in names), None)) is not None:
            raise unknown_name("column", stray, names)
        tables = [read_table(part.file, list(columns)).take(pa.array(part.rows)) for part in self.index.parts]
        places = np.concatenate([part.places for part in self.index.parts])
        return pa.concat_tables(tables).take(pc.sort_indices(pa.array(places))).to_pandas()

    def scores(self, attacks: Sequence[str] | None = None, drop: float | None = None) -> pd.DataFrame:
        """Every sample's score by each attack, at each timestep, with nothing dropped and with each mask.

        Args:
            attacks: all by default.
            drop: share of the dimensions that a mask leaves out, a multiple of 1 / masks.bins; by default the run's.

        Returns:
            sample_id, member, attack, timestep (missing: the mean over all), mask (none, lowest, global, random or
            highest), share (of the dimensions left out), score: minus the statistic, so that higher means member.

        Raises:
            UsageError: An attack was not made, or the share is no multiple of 1 / masks.bins.
        """
        config = self.record.config
        share = config.analysis.drop if drop is None else drop
        dropped = dropped_bins(share, config.masks.bins)
        if not 0 <= dropped < config.masks.bins:
            raise UsageError(f"drop = {share} must be at least 0 and below 1")
        frames = [frame for attack in attacks or self.attacks for frame in self._scores(attack, dropped)]
        return pd.concat(frames, ignore_index=True)

    def _scores(self, attack: str, dropped: int) -> Iterator[pd.DataFrame]:
        rows = self.attack_rows(attack)
        cuts = [(Mask.LOWEST, 0), *((mask, dropped) for mask in rows.masks if dropped)]
        candidates = [Candidate(*cut, step) for cut in cuts for step in range(len(rows.timesteps))]
        samples = self.index.sample_id.to_pandas()
        found, _ = rows.read(candidates, step=0)
        for candidate, scores in zip(candidates, found, strict=True):
            timestep = rows.timesteps[candidate.step]
            yield pd.DataFrame(
                {
                    "sample_id": samples,
                    "member": rows.member,
                    "attack": attack,
                    "timestep": pd.array([timestep] * len(scores), dtype="Int64"),
                    "mask": candidate.mask.value if candidate.dropped else "none",
                    "share": candidate.dropped / rows.bins,
                    "score": scores,
                }
            )

    def headline(self) -> pd.DataFrame:
        """The headline table: a line an attack and row, each metric with the bounds of its interval."""
        return pd.DataFrame([_headline(row) for row in self.results.headline]).astype({"timestep": "Int64"})

    def ranking(self) -> pd.DataFrame:
        """The ranking of the latent dimensions; `analysis.ranking.ranking_table` says what each column holds."""
        return self.directory.reduction().read_ranking().to_pandas()

    def roc(self, attack: str | None = None) -> pd.DataFrame:
        """The points of the ROC curves: attack, row, fpr, tpr; of one attack if it is named."""
        if attack is not None and attack not in self.attacks:
            raise unknown_name("attack", attack, self.attacks)
        points = [point.model_dump() for point in self.results.roc if attack in (None, point.attack)]
        return pd.DataFrame(points)


def _headline(row: Headline) -> dict[str, Any]:
    choice = row.heldout_choice
    return {
        "attack": row.attack,
        "row": row.row,
        "timestep": choice.timestep,
        "mask": choice.mask,
        "share": choice.drop,
        **_bounds(choice.metrics, NAMES),
        **({} if choice.difference is None else _bounds(choice.difference, ("auroc",), "minus_plain_")),
    }


def _bounds(metrics: MetricSet, names: Sequence[str], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name in names:
        value = getattr(metrics, name)
        found |= {prefix + name: value.value, f"{prefix}{name}_low": value.low, f"{prefix}{name}_high": value.high}
    return found
