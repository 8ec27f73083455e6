"""The run directory: what a run was asked, its rows and rejects, and everything derived from them.

run.json, samples/*.parquet and rejects/*.parquet are only ever added to; results.json, metrics.parquet,
ranking.parquet and report.html are derived from them and can be made again at any time. calibration.json, if
the configuration asks for a calibration set, and split.parquet, if there is a split file, are written once before
the first row. owners/*.json: see ownership.

Whatever dies between two files of one commit, or writes one twice, leaves nothing to fix: a row and a reject are pure
functions of their sample, so what is missing is computed again, and of what is there twice one is counted.
"""

import itertools
import json
import math
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from ldm_scale.config.audit import AuditConfig
from ldm_scale.errors import ExistsError, UsageError
from ldm_scale.files.digests import differences
from ldm_scale.files.storage import Location, encode_table, read_model, read_table, read_tables
from ldm_scale.schema import REJECT, SPLIT, split_id

# Parts of which the ids are read before they are asked for.
AHEAD = 8


class RunRecord(BaseModel):
    """run.json: the resolved configuration and everything the rows depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2] = 2
    fingerprint: str
    science: dict[str, Any]
    config: AuditConfig
    latent_shape: tuple[int, int, int]
    timesteps: dict[str, tuple[int, ...]]
    members: int
    heldout: int
    versions: dict[str, str]

    @property
    def dimensions(self) -> int:
        """D of the latent."""
        return math.prod(self.latent_shape)

    @property
    def samples(self) -> int:
        return self.members + self.heldout


class CalibrationRecord(BaseModel):
    """calibration.json: what a calibration set says of all samples' influences, a pure function of run.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int
    mean: tuple[float, ...]
    variance: float


@dataclass(frozen=True)
class RunState:
    """How far a run is: samples with a row, and rejects by stage and reason, most frequent first.

    latest: when the last part of rows appeared. pace: samples a second of the last job that wrote two parts or more
    of them, from its first part to its last.
    """

    rows: int
    rejects: dict[str, int]
    latest: datetime | None
    pace: float | None


@dataclass(frozen=True)
class RunDirectory:
    """A run directory at a location, local or on S3."""

    root: Location

    @property
    def _record(self) -> Location:
        return self.root / "run.json"

    def parts(self) -> list[Location]:
        """The Parquet files of rows."""
        return (self.root / "samples").files(".parquet")

    def reject_parts(self) -> list[Location]:
        """The Parquet files of rejects."""
        return (self.root / "rejects").files(".parquet")

    def read_record(self) -> RunRecord:
        """What the run was asked; raises UsageError if the folder holds no run."""
        if not self._record.is_file():
            raise UsageError(f"{self.root} holds no run.json; give the run directory of an audit")
        return read_model(self._record, RunRecord, "a run record")

    def read_ranking(self) -> pa.Table:
        """ranking.parquet; raises UsageError if it is missing."""
        location = self.root / "ranking.parquet"
        if not location.is_file():
            raise UsageError(f"{self.root} has no ranking.parquet; run `ldm-scale reduce RUN` first")
        return read_table(location)

    def read_calibration(self) -> CalibrationRecord | None:
        """calibration.json, if this run has one; raises UsageError if it is of another format."""
        location = self.root / "calibration.json"
        return read_model(location, CalibrationRecord, "a calibration") if location.is_file() else None

    def write_calibration(self, record: CalibrationRecord) -> None:
        """Keep what the calibration set said, so that a resumed run does not ask it again."""
        (self.root / "calibration.json").create(record.model_dump_json().encode())

    def check_free(self, fingerprint: str, science: dict[str, Any]) -> None:
        """Raise UsageError, with the differences, if another run or other files are here."""
        if self._record.is_file():
            earlier = self.read_record()
            if earlier.fingerprint != fingerprint:
                changes = "; ".join(differences(earlier.science, science))
                raise UsageError(
                    f"{self.root} holds another run ({changes}); give a new out folder, nothing is overwritten"
                )
        elif not self.root.is_empty():
            raise UsageError(
                f"{self.root} is not empty and holds no run; give a new out folder, nothing is overwritten"
            )

    def begin(self, record: RunRecord) -> None:
        """Start a run here, or resume the same one; raises UsageError as check_free does."""
        self.check_free(record.fingerprint, record.science)
        try:
            self._record.create(json.dumps(record.model_dump(mode="json"), indent=1).encode())
        except ExistsError:
            # Another job may just have begun another run.
            self.check_free(record.fingerprint, record.science)

    def read_split(self) -> dict[str, dict[str, bool]]:
        """Who is a member, by shard stem and key, as far as the run has kept it: looking it up reads every shard."""
        location = self.root / "split.parquet"
        found: dict[str, dict[str, bool]] = defaultdict(dict)
        if location.is_file():
            columns = (column.to_pylist() for column in read_table(location).select(SPLIT.names))
            for stem, key, member in zip(*columns, strict=True):
                found[stem][key] = member
        return found

    def keep_split(self, split: dict[str, dict[str, bool]]) -> None:
        """Keep who is a member, for when the run is resumed; nothing if no split file says so."""
        rows = [(stem, key, member) for stem, listed in split.items() for key, member in listed.items()]
        if rows:
            columns = map(list, zip(*rows, strict=True))
            with suppress(ExistsError):
                (self.root / "split.parquet").create(encode_table(pa.table(list(columns), schema=SPLIT)))

    def commit(self, rows: pa.Table, rejects: pa.Table, writer: int = 0) -> None:
        """Add rows and rejects, each as one new part; the parts of a later writer, a number, come later by name."""
        name = f"part-{writer:06d}-{uuid.uuid4().hex}.parquet"
        for folder, table in (("samples", rows), ("rejects", rejects)):
            if len(table):
                (self.root / folder / name).create(encode_table(table))

    def _row_ids(self) -> Iterator[str]:
        for table in read_tables(self.parts(), ["sample_id"], AHEAD):
            yield from table["sample_id"].to_pylist()

    def progress(self) -> RunState:
        """How far the run is, from the files alone; a row that a retry wrote twice counts once."""
        parts = self.parts()
        tables = read_tables(parts, ["sample_id"], AHEAD)
        ids = [table["sample_id"].to_pylist() for table in tables]
        found = set(itertools.chain.from_iterable(ids))
        rejects = [row for key, row in self._reject_rows().items() if key not in found]
        changed = {name: when / 1e9 for name, (_, when) in (self.root / "samples").versions().items()}
        written = [(part.name, changed[part.name], len(some)) for part, some in zip(parts, ids, strict=True)]
        latest = max((when for _, when, _ in written), default=None)
        return RunState(
            len(found),
            _by_reason(rejects),
            None if latest is None else datetime.fromtimestamp(latest, UTC),
            _pace(written),
        )

    def committed(self, rejects: bool = True) -> dict[str, frozenset[str]]:
        """The keys already in samples/ or, if they count, in rejects/, by shard stem."""
        keys: dict[str, set[str]] = defaultdict(set)
        for sample_id in (*self._row_ids(), *(self._reject_rows() if rejects else ())):
            stem, key = split_id(sample_id)
            keys[stem].add(key)
        return {stem: frozenset(found) for stem, found in keys.items()}

    def _reject_rows(self) -> dict[str, dict[str, str]]:
        """The latest reject of each sample, by its id."""
        tables = read_tables(self.reject_parts(), None, AHEAD)
        return {row["sample_id"]: row for table in tables for row in table.to_pylist()}

    def rejects(self) -> pa.Table:
        """The latest reject of each sample without a row, by sample id; a retry may have given it one."""
        rejects = self._reject_rows()
        if rejects:
            for sample_id in self._row_ids():
                rejects.pop(sample_id, None)
        return pa.Table.from_pylist([rejects[key] for key in sorted(rejects)], schema=REJECT)

    def reject_counts(self) -> dict[str, int]:
        """Rejects by stage and reason, most frequent first; details after a colon or in parentheses are left out."""
        return _by_reason(self.rejects().to_pylist())


def brief(reason: str) -> str:
    """A reject's reason without details, which follow a colon or are in parentheses."""
    return reason.split(":")[0].split(" (")[0]


def _by_reason(rejects: Iterable[dict[str, str]]) -> dict[str, int]:
    counts = Counter(f"{row['stage']}: {brief(row['reason'])}" for row in rejects)
    return dict(counts.most_common())


def _pace(written: Sequence[tuple[str, float, int]]) -> float | None:
    """Samples a second of the last job among parts (name, seconds of last change, rows); None for too few of them."""
    jobs = [name.rpartition("-")[0] for name, _, _ in written]
    times = sorted((when, rows) for job, (_, when, rows) in zip(jobs, written, strict=True) if job == max(jobs))
    seconds = times[-1][0] - times[0][0] if times else 0.0
    # What the first part holds was computed before it appeared.
    return sum(rows for _, rows in times[1:]) / seconds if seconds > 0 else None
