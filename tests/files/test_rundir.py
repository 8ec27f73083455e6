"""The run directory: begun once, resumed by the same run, refused to others, and counted from its files."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ldm_scale.config.audit import AuditConfig, MaskConfig
from ldm_scale.errors import UsageError
from ldm_scale.files.digests import digest
from ldm_scale.files.parts import Expected
from ldm_scale.files.rundir import RunDirectory, RunRecord
from ldm_scale.files.storage import Location
from ldm_scale.schema import REJECT


def make_record(**science: Any) -> RunRecord:
    content = {
        "seed": 0,
        "attacks": {"sima": {"p": 4.0, "timesteps": [0, 10]}},
        "target": "t" * 64,
        "shards": "a" * 64,
    } | science
    return RunRecord(
        fingerprint=digest(content),
        science=content,
        config=AuditConfig(out="o", attacks={"sima": {"p": 4.0}}, masks=MaskConfig(bins=5)),
        latent_shape=(1, 2, 2),
        timesteps={"sima": (0,)},
        expected=Expected(members={"a": 1, **{f"s-{number}": 20 for number in range(5)}}, heldout={"h": 5}),
        versions={"numpy": "2"},
    )


SCHEMA = make_record().schema
REJECTS = REJECT.with_metadata(SCHEMA.metadata)


def rows(*names: str) -> pa.Table:
    content = {
        "member": True,
        "distortion": 1.0,
        "influence": [0.0] * 4,
        "leakage": [0.0] * 4,
        "sima": [1.0] * 5,
        "sima_random": [1.0] * 5,
    }
    return pa.Table.from_pylist([{"sample_id": name} | content for name in names], schema=SCHEMA)


def rejects(**reasons: str) -> pa.Table:
    content = [{"sample_id": name, "stage": "decode", "reason": reason} for name, reason in reasons.items()]
    return pa.Table.from_pylist(content, schema=REJECTS)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def committed(run: RunDirectory, rejects: bool = True) -> dict[str, frozenset[str]]:
    """The keys of all shards that have some, which are as many as are counted."""
    held = run.holdings()
    counts = held.counts(rejects)
    keys = held.keys(counts, rejects)
    assert {stem: len(found) for stem, found in keys.items()} == counts
    return keys


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(Location.of(tmp_path / "run"))


@pytest.fixture
def begun(run: RunDirectory) -> RunDirectory:
    run.begin(make_record())
    return run


def test_a_run_is_begun_in_a_new_or_an_empty_folder(run: RunDirectory, tmp_path: Path) -> None:
    run.begin(make_record())
    assert run.read_record() == make_record()
    assert run.read_record().samples == 106
    (tmp_path / "empty").mkdir()
    RunDirectory(Location.of(tmp_path / "empty")).begin(make_record())
    assert sorted(tree(tmp_path)) == ["empty/run.json", "run/run.json"]


def test_the_same_run_is_resumed_and_its_record_left_alone(run: RunDirectory, tmp_path: Path) -> None:
    run.begin(make_record())
    run.commit(rows("a/1"), REJECT.empty_table())
    before = tree(tmp_path)
    changes = {"config": AuditConfig(out="elsewhere"), "versions": {}, "fixed": datetime.now(UTC)}
    run.begin(make_record().model_copy(update=changes))
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("science", "difference"),
    [
        ({"seed": 1}, r"\(seed was 0, is now 1\)"),
        ({"attacks": {"sima": {"p": 2.0, "timesteps": [0, 10]}}}, r"\(attacks\.sima\.p was 4\.0, is now 2\.0\)"),
        ({"attacks": {"sima": {"p": 4.0, "timesteps": [0]}}}, r"attacks\.sima\.timesteps was \[0, 10\], is now \[0\]"),
        ({"attacks": {"loss": {}}}, r"attacks\.loss was null, is now \{\}; attacks\.sima was "),
        ({"target": "u" * 64}, r'target was "t{36}\.\.\., is now "u{36}\.\.\.'),
        ({"shards": "c" * 64}, r"content of shards has changed: its SHA-256 was a{12}\.\.\., is now c{12}\.\.\.\)"),
        ({"seed": 1, "extra": True}, r"\(extra was null, is now true; seed was 0, is now 1\)"),
    ],
)
def test_another_run_is_refused_with_the_differences_named(
    run: RunDirectory, tmp_path: Path, science: dict[str, Any], difference: str
) -> None:
    run.begin(make_record())
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=difference) as caught:
        run.begin(make_record(**science))
    assert "nothing is overwritten" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert tree(tmp_path) == before


def test_a_folder_of_other_files_is_refused_and_left_alone(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="run is not empty and holds no run"):
        run.begin(make_record())
    assert tree(tmp_path) == {"run/thesis.tex": b"mine"}


def test_a_path_that_is_a_file_is_refused_and_left_alone(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UsageError, match="run"):
        run.begin(make_record())
    assert tree(tmp_path) == {"run": b"mine"}


def test_a_folder_without_a_record_is_no_run(run: RunDirectory) -> None:
    with pytest.raises(UsageError, match=r"run holds no run\.json"):
        run.read_record()


@pytest.mark.parametrize("change", [{"surprise": 1}, {"expected": None}, {"config": {"out": "o", "gone": 1}}])
def test_a_record_of_another_kind_is_named(run: RunDirectory, change: dict[str, Any]) -> None:
    content = make_record().model_dump(mode="json") | change
    (run.root / "run.json").replace(json.dumps(content).encode())
    with pytest.raises(UsageError, match=r"run\.json is not a run record"):
        run.read_record()


@pytest.mark.parametrize(
    "change",
    [
        {"latent_shape": [10**9, 10**9, 10**9]},
        {"latent_shape": [-1, 4, 4]},
        {"timesteps": {"sima": [0] * 1000}, "config": {"out": "o", "masks": {"bins": 10**7}}},
        {"expected": {"members": {"a": 10**400}, "heldout": {}}},
    ],
)
def test_a_record_of_numbers_that_no_run_has_is_named(run: RunDirectory, change: dict[str, Any]) -> None:
    (run.root / "run.json").replace(json.dumps(make_record().model_dump(mode="json") | change).encode())
    with pytest.raises(UsageError, match=r"run\.json is not a run record"):
        run.read_record()


def test_a_damaged_record_is_named_in_one_line(run: RunDirectory) -> None:
    for data in (b"", b"{", b"\xff\xfe"):
        (run.root / "run.json").replace(data)
        with pytest.raises(UsageError, match=r"run\.json is not a run record") as caught:
            run.read_record()
        assert "\n" not in str(caught.value)


def test_commits_add_parts_that_are_counted_and_listed(begun: RunDirectory) -> None:
    begun.commit(rows("s-0/a", "s-0/b"), rejects(**{"s-0/c": "no image"}))
    begun.commit(rows("s-1/deep/er/key"), REJECT.empty_table())
    begun.commit(rows(), rejects(**{"s-1/b": "no image", "s-1/c": "9 x 9 is more"}))
    begun.commit(rows(), REJECT.empty_table())
    assert (len(begun.parts()), len(begun.reject_parts())) == (2, 2)
    assert begun.progress().rows == 3
    assert committed(begun) == {"s-0": {"a", "b", "c"}, "s-1": {"deep/er/key", "b", "c"}}
    assert begun.holdings().keys(["s-1", "s-2"]) == {"s-1": {"deep/er/key", "b", "c"}, "s-2": set()}
    assert begun.rejects()["sample_id"].to_pylist() == ["s-0/c", "s-1/b", "s-1/c"]
    assert begun.reject_counts() == {"decode: no image": 2, "decode: 9 x 9 is more": 1}


def test_nothing_committed_is_nothing(begun: RunDirectory) -> None:
    assert (begun.parts(), begun.progress().rows, committed(begun), begun.reject_counts()) == (
        [],
        0,
        {},
        {},
    )
    assert begun.rejects().schema == REJECT


def test_a_repeated_commit_counts_once(begun: RunDirectory) -> None:
    for _ in range(2):
        begun.commit(rows("s-0/a"), rejects(**{"s-0/b": "no image"}))
    assert len(begun.parts()) == 2
    assert committed(begun) == {"s-0": {"a", "b"}}
    assert len(begun.rejects()) == 1
    assert begun.reject_counts() == {"decode: no image": 1}


def test_a_sample_with_a_row_is_no_reject_whatever_was_written_first(begun: RunDirectory) -> None:
    begun.commit(rows("s-0/a"), rejects(**{"s-0/b": "no image", "s-0/c": "no image"}))
    begun.commit(rows("s-0/b"), rejects(**{"s-0/a": "no image"}))
    assert begun.progress().rows == 2
    assert begun.rejects()["sample_id"].to_pylist() == ["s-0/c"]
    assert begun.reject_counts() == {"decode: no image": 1}
    assert committed(begun) == {"s-0": {"a", "b", "c"}}
    assert committed(begun, rejects=False) == {"s-0": {"a", "b"}}


def test_of_several_rejects_of_a_sample_the_latest_writer_counts(begun: RunDirectory) -> None:
    for writer in (10, 2, 9):
        for key in ("s-0/a", f"s-0/{writer}"):
            begun.commit(rows(), rejects(**{key: f"as of {writer}"}), writer)
    reasons = {row["sample_id"]: row["reason"] for row in begun.rejects().to_pylist()}
    assert reasons == {"s-0/a": "as of 10", "s-0/2": "as of 2", "s-0/9": "as of 9", "s-0/10": "as of 10"}


def test_a_writer_that_dies_between_the_two_parts_of_a_commit_loses_and_doubles_nothing(
    begun: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing is not done, and a retry of the whole commit counts once."""
    create = Location.create

    def die(location: Location, data: bytes) -> None:
        if "/rejects/" in location.uri:
            raise KeyboardInterrupt
        create(location, data)

    commit = (rows("s-0/a", "s-0/b"), rejects(**{"s-0/c": "no image"}))
    monkeypatch.setattr(Location, "create", die)
    with pytest.raises(KeyboardInterrupt):
        begun.commit(*commit)
    monkeypatch.undo()
    assert committed(begun) == {"s-0": {"a", "b"}}
    first = tree(Path(begun.root.uri))
    begun.commit(*commit)
    assert committed(begun) == {"s-0": {"a", "b", "c"}}
    assert (begun.progress().rows, begun.reject_counts()) == (2, {"decode: no image": 1})
    assert first.items() < tree(Path(begun.root.uri)).items()


def test_of_two_jobs_that_begin_at_once_the_other_run_is_refused(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record appears between the look at the folder and the writing."""
    check, other = RunDirectory.check_free, make_record(seed=1)

    def check_and_lose(run: RunDirectory, fingerprint: str, science: dict[str, Any]) -> None:
        check(run, fingerprint, science)
        monkeypatch.undo()
        run.begin(other)

    monkeypatch.setattr(RunDirectory, "check_free", check_and_lose)
    with pytest.raises(UsageError, match=r"seed was 1, is now 0"):
        run.begin(make_record())
    assert run.read_record() == other


def test_rejects_are_counted_by_reason_without_its_details(begun: RunDirectory) -> None:
    reasons = [
        "cannot be decoded: broken PNG",
        "cannot be decoded: truncated",
        "too large (90 x 90)",
        "too large (8 x 8)",
    ]
    begun.commit(rows(), rejects(**{f"s-0/{i}": reason for i, reason in enumerate([*reasons, "too large"])}))
    assert begun.reject_counts() == {"decode: too large": 3, "decode: cannot be decoded": 2}


def test_the_pace_is_that_of_the_last_job_from_its_first_part_to_its_last(begun: RunDirectory) -> None:
    """Two parts of four samples, one and four minutes after one that took nobody knows how long."""
    assert (begun.progress().latest, begun.progress().pace) == (None, None)
    for number, (writer, minute, names) in enumerate(
        [(1, 0, "ab"), (1, 50, "cd"), (2, 60, "e"), (2, 61, "fgh"), (2, 64, "i")]
    ):
        before = set(begun.parts())
        begun.commit(rows(*(f"s-{number}/{name}" for name in names)), REJECT.empty_table(), writer)
        (part,) = set(begun.parts()) - before
        os.utime(part.uri, (60 * minute, 60 * minute))
        if writer == 2 and names == "e":
            assert begun.progress().pace is None
    found = begun.progress()
    assert found.latest == datetime(1970, 1, 1, 1, 4, tzinfo=UTC)
    assert found.pace == pytest.approx(4 / 240)


def test_files_that_are_no_parts_are_left_out(begun: RunDirectory) -> None:
    begun.commit(rows("s-0/a"), REJECT.empty_table())
    (begun.root / "samples/part-x.parquet.abc.partial").replace(b"half")
    assert begun.progress().rows == 1
    assert committed(begun) == {"s-0": {"a"}}


def test_who_is_a_member_is_kept_once(run: RunDirectory) -> None:
    assert run.read_split() == {}
    run.keep_split({})
    assert run.read_split() == {}
    split = {"s-0": {"a": True, "deep/b": False}, "s-1": {"a": False}}
    run.keep_split(split)
    run.keep_split({"s-0": {"a": False}})
    assert run.read_split() == split
