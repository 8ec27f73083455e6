"""What lies in a run directory is compared with what the run was asked: the rest is named by file, and never counts.

Each fault is put into a run that is complete, and is one that passed once.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldm_scale.cli import main
from ldm_scale.errors import RunError
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from ldm_scale.schema import REJECT
from tests.made_up import EACH, RECORD, SAMPLES, commit, ids_of, make_record, make_rejects, make_rows, make_run

SCHEMA = RECORD.schema
OTHERS = SCHEMA.with_metadata({"fingerprint": "another"})


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(Location.of(tmp_path / "run"))


def rewritten(run: RunDirectory, change: Callable[[pa.Table], pa.Table]) -> Location:
    """The first part, which is that of shard h-0 or another, with a change; its name stays."""
    part = run.parts()[0]
    pq.write_table(change(pq.read_table(part.uri)), part.uri)
    return part


def cut(run: RunDirectory, size: int) -> Location:
    part = run.parts()[0]
    os.truncate(part.uri, size)
    return part


def flip(table: pa.Table) -> pa.Table:
    member = pa.array([not value for value in table["member"].to_pylist()])
    return table.set_column(1, table.schema.field("member"), member)


def reject_part(run: RunDirectory, table: pa.Table) -> Location:
    run.commit(SCHEMA.empty_table(), table)
    return run.reject_parts()[0]


def nothing_in(column: str) -> Callable[[RunDirectory], Location]:
    def spoil(run: RunDirectory) -> Location:
        def empty(table: pa.Table) -> pa.Table:
            place = table.schema.get_field_index(column)
            kind = table.schema.field(column).type
            return table.set_column(place, pa.field(column, kind), pa.nulls(len(table), kind))

        return rewritten(run, empty)

    return spoil


# By what is wrong: how it is done, and samples that are left to do because of it.
FAULTS: dict[str, tuple[Callable[[RunDirectory], Location], int]] = {
    "empty": (lambda run: cut(run, 0), EACH),
    "truncated": (lambda run: cut(run, 900), EACH),
    "without its last byte": (lambda run: cut(run, os.path.getsize(run.parts()[0].uri) - 1), EACH),
    "no fingerprint": (lambda run: rewritten(run, lambda table: table.replace_schema_metadata(None)), EACH),
    "another fingerprint": (lambda run: commit(run, make_rows(ids_of("m-0"), True, OTHERS)), 0),
    "a column gone": (lambda run: rewritten(run, lambda table: table.drop_columns(["leakage"])), EACH),
    "a column of another type": (
        lambda run: rewritten(
            run, lambda table: table.set_column(2, "distortion", table["distortion"].cast(pa.float64()))
        ),
        EACH,
    ),
    "members are held-out": (lambda run: rewritten(run, flip), EACH),
    "both sides": (lambda run: commit(run, make_rows(["m-0/0", "h-0/0"], True)), 0),
    "another shard": (lambda run: commit(run, make_rows(ids_of("x-0"), True)), 0),
    "no shard": (lambda run: commit(run, make_rows(["m-0", ""], True)), 0),
    "too many samples": (lambda run: commit(run, make_rows(["m-0/extra"], True)), 0),
    "more rows than samples": (
        lambda run: commit(run, make_rows(["m-0/0"] * (SAMPLES + 1), True)),
        0,
    ),
    "no ids": (nothing_in("sample_id"), EACH),
    "no sides": (nothing_in("member"), EACH),
    "rejects of another run": (
        lambda run: reject_part(run, make_rejects("m-0/0", schema=REJECT.with_metadata(OTHERS.metadata))),
        0,
    ),
    "rejects of another shard": (lambda run: reject_part(run, make_rejects("x-0/0")), 0),
    "rejects without a reason": (
        lambda run: reject_part(
            run, make_rejects("m-0/0").set_column(2, REJECT.field("reason"), pa.nulls(1, pa.string()))
        ),
        0,
    ),
    "too many rejects": (lambda run: reject_part(run, make_rejects("m-0/extra")), 0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_of_the_run_is_named_by_status_and_refused_by_a_resume(
    fault: str, run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, left = FAULTS[fault]
    part = spoil(run)
    assert main(["status", str(run.root)]) == 1
    captured = capsys.readouterr()
    assert f"{SAMPLES - left} of {SAMPLES} samples done, {left} left" in captured.out
    assert captured.out.count(str(part)) == 1
    assert captured.err.count("\n") == 1
    with pytest.raises(RunError) as caught:
        run.holdings().counts()
    assert str(part) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", ["truncated", "another fingerprint", "members are held-out", "too many samples"])
def test_what_is_not_of_the_run_is_named_by_reduce_whether_it_may_be_partial_or_not(
    fault: str, run: RunDirectory, inline: None, capsys: pytest.CaptureFixture[str]
) -> None:
    part = FAULTS[fault][0](run)
    for flags in ([], ["--partial"]):
        assert main(["reduce", str(run.root), *flags]) == 1
        error = capsys.readouterr().err
        assert str(part) in error
        assert error.count("\n") == 1
    assert not (run.root / "results.json").is_file()


def test_parts_that_a_listing_forgets_are_missing_by_their_shards(
    run: RunDirectory, inline: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And with --partial there are results of the others, which say so."""
    forgotten = {part.uri for part in run.parts() if pq.read_table(part.uri)["sample_id"][0].as_py().startswith("h-1")}
    parts = RunDirectory.parts
    monkeypatch.setattr(RunDirectory, "parts", lambda run: [part for part in parts(run) if part.uri not in forgotten])
    assert main(["reduce", str(run.root)]) == 1
    assert (
        f"{EACH} of {SAMPLES} samples have neither a row nor a reject: {EACH} of shard h-1;" in capsys.readouterr().err
    )
    assert not (run.root / "results.json").is_file()
    assert main(["reduce", str(run.root), "--partial"]) == 0
    said = f"{EACH} samples have neither a row nor a reject"
    assert f"warning: {said}" in capsys.readouterr().out
    assert said in (run.root / "report.html").read_text()


def test_rejects_make_a_run_whole(run: RunDirectory, inline: None, capsys: pytest.CaptureFixture[str]) -> None:
    part = next(part for part in run.parts() if pq.read_table(part.uri)["sample_id"][0].as_py() == "m-1/0")
    pq.write_table(pq.read_table(part.uri)[2:], part.uri)
    assert main(["reduce", str(run.root)]) == 1
    assert "2 of shard m-1;" in capsys.readouterr().err
    run.commit(SCHEMA.empty_table(), make_rejects("m-1/0", "m-1/1"))
    assert main(["reduce", str(run.root)]) == 0
    assert "rejected 2: decode: no image" in capsys.readouterr().out


SPLIT = {stem: {str(number): number < 4 for number in range(EACH)} for stem in ("m-0", "m-1", "h-0", "h-1")}


@pytest.fixture
def drawn(tmp_path: Path) -> RunDirectory:
    """A run by a split file: each shard holds both sides."""
    run = RunDirectory(Location.of(tmp_path / "run"))
    counts = dict.fromkeys(SPLIT, 4)
    record = make_record(split="split.json")
    run.begin(
        record.model_copy(
            update={"expected": record.expected.model_copy(update={"members": counts, "heldout": counts})}
        )
    )
    run.keep_split(SPLIT)
    for stem, listed in SPLIT.items():
        commit(run, make_rows(ids_of(stem), list(listed.values())))
    return run


@pytest.mark.parametrize(
    "sides", [{"m-0/0": False}, {"m-0/7": True}, {"m-0/other": True}, {"m-0/0": True, "m-0/4": True}]
)
def test_sides_are_those_of_the_split(sides: dict[str, bool], drawn: RunDirectory) -> None:
    assert drawn.progress().foreign == ()
    part = commit(drawn, make_rows([*sides], [*sides.values()]))
    (fault,) = drawn.progress().foreign
    assert str(part) in fault
    assert [*sides][-1] in fault


def test_a_run_that_lost_its_split_is_not_believed(drawn: RunDirectory) -> None:
    os.unlink((drawn.root / "split.parquet").uri)
    with pytest.raises(RunError, match=r"split\.parquet is missing"):
        drawn.progress()
    drawn.keep_split(SPLIT | {"m-0": SPLIT["m-0"] | {"0": False}})
    with pytest.raises(RunError, match=r"split\.parquet .* does not say what run\.json counts"):
        drawn.progress()


def test_a_split_of_another_kind_is_named(drawn: RunDirectory) -> None:
    file = (drawn.root / "split.parquet").uri
    for spoil in (lambda: pq.write_table(pa.table({"shard": [1]}), file), lambda: os.truncate(file, 10)):
        spoil()
        with pytest.raises(RunError, match=r"split\.parquet"):
            drawn.progress()


def test_a_row_without_numbers_is_named(run: RunDirectory, inline: None, capsys: pytest.CaptureFixture[str]) -> None:
    part = nothing_in("influence")(run)
    assert main(["reduce", str(run.root)]) == 1
    assert f"{part}: some rows have no influence" in capsys.readouterr().err


def test_the_pace_outlasts_a_clock_that_jumps_an_hour(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    for part, second in zip(run.parts(), (10_000, 10_010, 6_420, 6_430), strict=True):
        os.utime(part.uri, (second, second))
    assert main(["status", str(run.root)]) == 0
    assert f"{SAMPLES} of {SAMPLES} samples done, 0 left" in capsys.readouterr().out
    pace = run.progress().pace
    assert pace is not None
    assert pace > 0
