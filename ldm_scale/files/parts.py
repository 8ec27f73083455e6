"""The parts of a run, compared with what the run was asked: nothing that lies in samples/ or rejects/ is believed.

A part belongs to a run if it bears the run's fingerprint and schema, and if every sample in it is one of the run's, on
its side. A part that does not is left out as a whole and named, and so is what is missing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from ldm_scale.config.base import Record
from ldm_scale.errors import ContentError, RunError
from ldm_scale.files.storage import Location, read_ahead, read_table
from ldm_scale.schema import REJECT, split_id

# Columns in which every sample has something.
NEVER_EMPTY = ("sample_id", "member", "stage", "reason")
# As a manifest has it.
Count = Annotated[int, Field(ge=0, lt=2**63)]
# What is said of many: the first few.
NAMED = 3


class Expected(Record):
    """How many samples a run was asked for: of each side, by shard stem."""

    members: dict[str, Count]
    heldout: dict[str, Count]

    @classmethod
    def of(cls, split: Mapping[str, Mapping[str, bool]]) -> "Expected":
        """What a split asks for."""
        members = {stem: sum(listed.values()) for stem, listed in split.items()}
        heldout = {stem: len(listed) - members[stem] for stem, listed in split.items()}
        return cls(members=members, heldout=heldout)

    @field_validator("members", "heldout")
    @classmethod
    def _some(cls, counts: dict[str, int]) -> dict[str, int]:
        return {stem: count for stem, count in counts.items() if count}

    def side(self, member: bool) -> dict[str, int]:
        """Those of one side."""
        return self.members if member else self.heldout

    @property
    def total(self) -> int:
        """Those of all shards."""
        return sum(self.members.values()) + sum(self.heldout.values())

    def both(self) -> Counter[str]:
        """Those of both sides together."""
        return Counter(self.members) + Counter(self.heldout)


@dataclass(frozen=True)
class ReadPart:
    """What was read of one file; no table if it does not belong to the run, but the reason why."""

    file: Location
    table: pa.Table | None
    fault: str | None = None

    def holds(self, stem: str) -> bool:
        """Whether a sample of this shard counts in it."""
        return self.table is not None and stem in stems(self.table["sample_id"]).unique().to_pylist()


@dataclass(frozen=True)
class Balance:
    """What a run lacks, samples by shard stem, and what lies there and is not the run's, by file."""

    missing: dict[str, int]
    foreign: tuple[str, ...]

    def check_own(self) -> None:
        """Raise RunError if anything there is not the run's."""
        if self.foreign:
            raise RunError(f"{first_of(self.foreign)}; what is not of this run counts for nothing: move it away")

    def check_whole(self, expected: int) -> None:
        """Raise RunError if anything is missing of so many samples."""
        if self.missing:
            lacks = [f"{count} of shard {stem}" for stem, count in self.missing.items()]
            raise RunError(
                f"{sum(self.missing.values())} of {expected} samples have neither a row nor a reject: "
                f"{first_of(lacks, ', ')}; run the audit again to finish it, or give --partial"
            )


def first_of(lines: Sequence[str], between: str = "; ") -> str:
    """The first few of some lines, and how many more there are."""
    more = len(lines) - NAMED
    return between.join(lines[:NAMED]) + (f"{between}and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Plan:
    """What the parts of a run may hold.

    schema: of rows, with the fingerprint. split: who is a member, by shard stem and key, if a split file says so.
    """

    schema: pa.Schema
    expected: Expected
    split: Mapping[str, Mapping[str, bool]] | None

    def read_rows(self, files: Sequence[Location], columns: list[str], ahead: int) -> Iterator[ReadPart]:
        """Some columns of parts of rows, in their order; sample_id and member are among them."""
        return read_ahead(partial(self._read, schema=self.schema, columns=columns), files, ahead)

    def read_rejects(self, files: Sequence[Location], ahead: int) -> Iterator[ReadPart]:
        """Parts of rejects, in their order."""
        schema = REJECT.with_metadata(self.schema.metadata)
        return read_ahead(partial(self._read, schema=schema, columns=REJECT.names), files, ahead)

    def _read(self, file: Location, schema: pa.Schema, columns: list[str]) -> ReadPart:
        try:
            table = read_table(file, columns, schema, self.expected.total)
        except ContentError as error:
            return ReadPart(file, None, str(error))
        fault = self._stranger(table)
        return ReadPart(file, None, f"{file}: {fault}") if fault else ReadPart(file, table)

    def _stranger(self, table: pa.Table) -> str | None:
        """What samples of a table are not the run's, or not on this side; rejects have none."""
        if empty := next((name for name in NEVER_EMPTY if name in table.schema.names and table[name].null_count), None):
            return f"some samples have no {empty}"
        sides = table.column_names.count("member") * ["member"]
        counted = table.select(sides).append_column("stem", stems(table["sample_id"]))
        for found in counted.group_by(["stem", *sides]).aggregate([([], "count_all")]).to_pylist():
            stem, count, member = found["stem"], found["count_all"], found.get("member")
            wanted = {side: self.expected.side(side).get(stem, 0) for side in (True, False)}
            if not any(wanted.values()):
                return f"{count} samples are of shard {stem!r}, which is none of this run's"
            if sides and not wanted.get(member):
                return f"{count} samples of shard {stem} are {_side(member)} there; it has none such"
        return None if self.split is None else self._unlisted(table, bool(sides))

    def _unlisted(self, table: pa.Table, sides: bool) -> str | None:
        assert self.split is not None
        members = table["member"].to_pylist() if sides else [None] * len(table)
        for sample_id, member in zip(table["sample_id"].to_pylist(), members, strict=True):
            stem, key = split_id(sample_id)
            listed = self.split.get(stem, {}).get(key)
            if listed is None:
                return f"the sample {sample_id!r} is none of this run's"
            if sides and listed is not member:
                return f"the sample {sample_id!r} is {_side(member)} there, and {_side(listed)} by the split"
        return None

    def balance(self, ids: pa.Array, rejected: Iterable[str], parts: Sequence[ReadPart]) -> Balance:
        """How what a run holds compares with what it was asked.

        Args:
            ids: of the samples that have a row, each once.
            rejected: ids of those that have a reject alone, each once.
            parts: all that were read.
        """
        held = count_stems(ids)
        held.update(split_id(sample_id)[0] for sample_id in rejected)
        expected = self.expected.both()
        foreign = [part.fault for part in parts if part.fault]
        for stem in sorted(held - expected):
            files = [str(part.file) for part in parts if part.holds(stem)]
            foreign.append(f"{held[stem]} samples of shard {stem}, which has {expected[stem]}: {first_of(files, ', ')}")
        return Balance(dict(sorted((expected - held).items())), tuple(foreign))


def _side(member: bool) -> str:
    return "members" if member else "held-out"


def stems(ids: pa.Array) -> pa.Array:
    """The shard stem of each sample id."""
    return pc.list_element(pc.split_pattern(ids, "/", max_splits=1), 0)


def count_stems(ids: pa.Array) -> Counter[str]:
    """How many of some sample ids are of each shard, by its stem."""
    return Counter({found["values"]: found["counts"] for found in pc.value_counts(stems(ids)).to_pylist()})
