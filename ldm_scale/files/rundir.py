"""The run directory: what a run was asked, its rows and rejects, and everything derived from them.

run.json, samples/*.parquet and rejects/*.parquet are only ever added to; what is derived from them can be made again at
any time, in sets of files: see reductions. calibration.json, if the configuration asks for a calibration set, and
split.parquet, if there is a split file, are written once before the first row. owners/*.json: see ownership. What lies
in samples/ and rejects/ is compared with what run.json asked for: see parts. reference/, if there is a reference model,
is the run directory of its own audit.

Whatever dies between two files of one commit, or writes one twice, leaves nothing to fix: a row and a reject are pure
functions of their sample, so what is missing is computed again, and of what is there twice one is counted.
"""

import json
import math
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from ldm_scale.config.audit import REFERENCE, AuditConfig
from ldm_scale.config.base import Record
from ldm_scale.errors import ExistsError, RunError, UsageError, one_line
from ldm_scale.files.digests import differences
from ldm_scale.files.parts import Balance, Expected, Plan, ReadPart, count_stems, stems
from ldm_scale.files.reductions import Reduction, latest_reduction
from ldm_scale.files.storage import Location, encode_table, read_model, read_table
from ldm_scale.schema import REJECT, SPLIT, row_schema, split_id

# Parts of which the ids are read before they are asked for.
AHEAD = 8


class RunRecord(Record):
    """run.json: the resolved configuration and everything the rows depend on.

    preset: published, if the run was to follow the authors' procedure. departures: from that, a line each. fixed: when
    all of this was, attacks and analysis among it: before the first row. blind: names of the plain numbers in the rows.
    Runs of older versions have neither.
    """

    format: Literal[3] = 3
    fingerprint: str
    science: dict[str, Any]
    config: AuditConfig
    latent_shape: tuple[int, int, int]
    timesteps: dict[str, tuple[int, ...]]
    expected: Expected
    versions: dict[str, str]
    preset: Literal["published"] | None = None
    departures: tuple[str, ...] = ()
    fixed: datetime | None = None
    blind: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_rows(self) -> Self:
        """Its numbers may be any: those of a schema have limits."""
        try:
            _ = self.schema
        except (ValueError, OverflowError) as error:
            raise ValueError(f"no rows can be of its latent_shape, timesteps and bins: {one_line(error)}") from error
        return self

    @property
    def dimensions(self) -> int:
        """D of the latent."""
        return math.prod(self.latent_shape)

    @property
    def members(self) -> int:
        return sum(self.expected.members.values())

    @property
    def heldout(self) -> int:
        return sum(self.expected.heldout.values())

    @property
    def samples(self) -> int:
        return self.members + self.heldout

    @property
    def schema(self) -> pa.Schema:
        """That of the rows."""
        steps = {name: len(timesteps) for name, timesteps in self.timesteps.items()}
        masks = self.config.masks
        metadata = {"fingerprint": self.fingerprint}
        return row_schema(self.dimensions, steps, masks.bins, metadata, masks.ranking is not None, self.blind)


class CalibrationRecord(Record):
    """calibration.json: what a calibration set says of all samples' influences, a pure function of run.json.

    mean: of the influences less each sample's own mean. variance: of the true ones around it. filter: of
    pooled influences (geometry/pooled.py).
    """

    samples: int
    mean: tuple[float, ...]
    variance: float
    filter: list[list[list[list[float]]]] | None = None


@dataclass(frozen=True)
class RunState:
    """How far a run is: samples that are done and left, and rejects by stage and reason, most frequent first.

    rows: samples with a row. latest: when the last part of rows appeared. pace: samples a second of the last job that
    wrote two parts or more of them, from its first part to its last. foreign: what lies there and is not the run's.
    """

    rows: int
    rejects: dict[str, int]
    left: int
    latest: datetime | None
    pace: float | None
    foreign: tuple[str, ...]


@dataclass(frozen=True)
class Holdings:
    """What a run holds, each sample once: ids of rows, and the latest reject of each sample without a row.

    The ids stay in Arrow's memory: as Python's strings, those of 100 million samples would be 20 GB of the driver.
    """

    ids: pa.LargeStringArray
    rejects: dict[str, dict[str, str]]
    parts: list[ReadPart]
    balance: Balance

    def counts(self, rejects: bool = True) -> Counter[str]:
        """How many samples have a row or, if these count, a reject, by shard stem.

        Raises:
            RunError: Something there is not the run's.
        """
        self.balance.check_own()
        refused = Counter(split_id(sample_id)[0] for sample_id in self.rejects) if rejects else Counter[str]()
        return count_stems(self.ids) + refused

    def keys(self, wanted: Iterable[str], rejects: bool = True) -> dict[str, frozenset[str]]:
        """The keys that `counts` counts, of the shards with these stems alone; errors alike."""
        self.balance.check_own()
        keys: dict[str, set[str]] = {stem: set() for stem in wanted}
        ids = self.ids.filter(pc.is_in(stems(self.ids), value_set=pa.array(keys, pa.large_string())))
        for stem, key in map(split_id, (*ids.to_pylist(), *(self.rejects if rejects else ()))):
            if stem in keys:
                keys[stem].add(key)
        return {stem: frozenset(found) for stem, found in keys.items()}


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

    def earlier(self) -> RunRecord | None:
        """What the run was asked, if there is one."""
        return self.read_record() if self._record.is_file() else None

    def reduction(self) -> Reduction:
        """What readers see of all that is derived; raises UsageError if nothing is."""
        return latest_reduction(self.root)

    def reference(self) -> "RunDirectory":
        """The place of the audit of a reference model, a run of its own."""
        return RunDirectory(self.root / REFERENCE)

    def read_calibration(self) -> CalibrationRecord | None:
        """calibration.json, if this run has one; raises UsageError if it is of another format."""
        location = self.root / "calibration.json"
        return read_model(location, CalibrationRecord, "a calibration") if location.is_file() else None

    def write_calibration(self, record: CalibrationRecord) -> None:
        """Keep what the calibration set said, so that a resumed run does not ask it again."""
        (self.root / "calibration.json").create(record.model_dump_json().encode())

    def check_free(self, fingerprint: str, science: dict[str, Any]) -> None:
        """Raise UsageError, with the differences, if another run or other files are here."""
        if earlier := self.earlier():
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
            columns = (column.to_pylist() for column in read_table(location, SPLIT.names, SPLIT))
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

    def plan(self) -> Plan:
        """What the parts may hold.

        Raises:
            UsageError: The folder holds no run.
            RunError: split.parquet is not what it was.
        """
        record = self.read_record()
        split = self.read_split()
        listed = record.config.split is not None or record.config.limit is not None
        if listed and Expected.of(split) != record.expected:
            raise RunError(
                f"{self.root}/split.parquet is missing or does not say what run.json counts; move it away and run the "
                "audit again"
            )
        return Plan(record.schema, record.expected, split or None)

    def read_rejects(self, plan: Plan) -> tuple[dict[str, dict[str, str]], list[ReadPart]]:
        """The latest reject of each sample, by its id, and the parts they are of."""
        parts = list(plan.read_rejects(self.reject_parts(), AHEAD))
        return {
            row["sample_id"]: row for part in parts if part.table is not None for row in part.table.to_pylist()
        }, parts

    def holdings(self) -> Holdings:
        """What the run holds, from the files alone; a row that a retry wrote twice counts once."""
        plan = self.plan()
        parts = list(plan.read_rows(self.parts(), ["sample_id", "member"], AHEAD))
        tables = [part.table["sample_id"] for part in parts if part.table is not None]
        chunks = [chunk.cast(pa.large_string()) for table in tables for chunk in table.chunks]
        ids = pa.chunked_array(chunks, pa.large_string()).unique()
        rejects, reject_parts = self.read_rejects(plan)
        refused = pa.array(rejects, pa.large_string())
        for sample_id in refused.filter(pc.is_in(refused, value_set=ids)).to_pylist():
            del rejects[sample_id]
        return Holdings(ids, rejects, parts, plan.balance(ids, rejects, [*parts, *reject_parts]))

    def latest(self) -> datetime | None:
        """When the last part of rows appeared, by the time of its file."""
        return _newest([when / 1e9 for _, when in (self.root / "samples").versions().values()])

    def progress(self) -> RunState:
        """How far the run is; what is not the run's is not counted."""
        held = self.holdings()
        changed = {name: when / 1e9 for name, (_, when) in (self.root / "samples").versions().items()}
        # A part that is not the job's may be gone by now.
        written = [
            (part.file.name, changed[part.file.name], len(part.table))
            for part in held.parts
            if part.table is not None and part.file.name in changed
        ]
        return RunState(
            rows=len(held.ids),
            rejects=by_reason(held.rejects.values()),
            left=sum(held.balance.missing.values()),
            latest=_newest([when for _, when, _ in written]),
            pace=_pace(written),
            foreign=held.balance.foreign,
        )

    def rejects(self) -> pa.Table:
        """The latest reject of each sample without a row, by sample id; a retry may have given it one.

        Raises:
            RunError: Something there is not the run's.
        """
        held = self.holdings()
        held.balance.check_own()
        return pa.Table.from_pylist([held.rejects[key] for key in sorted(held.rejects)], schema=REJECT)

    def reject_counts(self) -> dict[str, int]:
        """Rejects by stage and reason, most frequent first; details after a colon or in parentheses are left out."""
        return by_reason(self.rejects().to_pylist())


def brief(reason: str) -> str:
    """A reject's reason without details, which follow a colon or are in parentheses."""
    return reason.split(":")[0].split(" (")[0]


def by_reason(rejects: Iterable[dict[str, str]]) -> dict[str, int]:
    """How many rejects there are of each stage and reason, most frequent first."""
    counts = Counter(f"{row['stage']}: {brief(row['reason'])}" for row in rejects)
    return dict(counts.most_common())


def _newest(times: Sequence[float]) -> datetime | None:
    """The last of some times in seconds; None of none."""
    return datetime.fromtimestamp(max(times), UTC) if times else None


def _pace(written: Sequence[tuple[str, float, int]]) -> float | None:
    """Samples a second of the last job among parts (name, seconds of last change, rows); None for too few of them."""
    jobs = [name.rpartition("-")[0] for name, _, _ in written]
    times = sorted((when, rows) for job, (_, when, rows) in zip(jobs, written, strict=True) if job == max(jobs))
    seconds = times[-1][0] - times[0][0] if times else 0.0
    # What the first part holds was computed before it appeared.
    return sum(rows for _, rows in times[1:]) / seconds if seconds > 0 else None
