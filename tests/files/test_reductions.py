"""Derived files are sets: whoever dies or is overtaken while he writes one, readers see one or the other."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldm_scale.errors import ContentError, RunError, UsageError
from ldm_scale.files.ownership import Owner, Ownership
from ldm_scale.files.reductions import METRICS, RANKING, REPORT, RESULTS, latest_reduction, publish, write_reduction
from ldm_scale.files.storage import Location, read_table


class Killed(BaseException):
    """Stands in for SIGKILL."""


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return Location.of(tmp_path if request.param == "local" else request.getfixturevalue("bucket")) / "run"


@contextmanager
def owned(root: Location, number: int) -> Iterator[Ownership]:
    """Own a run by this number at once, as a job does that has waited for a lease."""
    owner = Ownership(root, number, Owner(host="here", pid=number, since="2026-01-01 00:00:00+00:00"))
    owner.begin()
    try:
        yield owner
    finally:
        owner.end()


def write(owner: Ownership, name: str) -> None:
    """All that a reduction writes."""
    tables = {METRICS: pa.table({"name": [name]}), RANKING: pa.table({"name": [name]})}
    write_reduction(owner, name.encode(), tables)
    latest_reduction(owner.claim.root).write_report(owner, f"page of {name}".encode())
    publish(owner)


def seen(root: Location) -> str:
    """The name of the one reduction that readers see."""
    found = latest_reduction(root)
    (name,) = found.read_ranking()["name"].to_pylist()
    assert found.read_results() == name.encode()
    return name


def beside(root: Location) -> set[str]:
    """The names of the reductions whose files lie beside run.json."""
    tables = [read_table(root / name) for name in (METRICS, RANKING)]
    for table in tables:
        stamp = hashlib.sha256(table["name"][0].as_py().encode()).hexdigest().encode()
        assert table.schema.metadata[b"results"] == stamp
    page = (root / REPORT).read_text().removeprefix("page of ")
    return {page, (root / RESULTS).read_text(), *(table["name"][0].as_py() for table in tables)}


@contextmanager
def before_write(number: int, act: Callable[[], None]) -> Iterator[list[str]]:
    """Do something right before the write of this number, after all that was asked before it; what was written."""
    written: list[str] = []

    def watched(name: str) -> Callable[..., Any]:
        real = getattr(Location, name)

        def call(location: Location, data: bytes) -> None:
            if "/owners/" not in location.uri and active:
                written.append(location.uri)
                if len(written) == number:
                    active.clear()
                    act()
            real(location, data)

        return call

    active = ["yes"]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("create", "replace"):
            patch.setattr(Location, name, watched(name))
        yield written


# Of write(): three files of a set, a page, and four copies.
WRITES = 8


def test_a_set_is_what_is_found_beside_the_record(root: Location) -> None:
    with pytest.raises(UsageError, match=r"has no results\.json; run `ldm-scale reduce RUN` first"):
        latest_reduction(root)
    for number, name in enumerate(("first", "second", "first"), 1):
        with owned(root, number) as owner, before_write(0, pytest.fail) as written:
            write(owner, name)
        assert len(written) == WRITES
        assert seen(root) == name
        assert beside(root) == {name}


@pytest.mark.parametrize("number", range(1, WRITES + 1))
def test_who_dies_before_a_write_leaves_one_reduction_or_the_other(number: int, tmp_path: Path) -> None:
    def die() -> None:
        raise Killed

    root = Location.of(tmp_path)
    with owned(root, 1) as owner:
        write(owner, "old")
    with owned(root, 2) as owner, before_write(number, die), pytest.raises(Killed):
        write(owner, "new")
    assert seen(root) == ("old" if number <= 3 else "new")
    if number <= 5:
        assert beside(root) == {"old"}
    with owned(root, 3) as owner:
        write(owner, "again")
    assert (seen(root), beside(root)) == ("again", {"again"})


@pytest.mark.parametrize("number", range(1, WRITES + 1))
def test_who_is_overtaken_right_before_a_write_changes_nothing(number: int, root: Location) -> None:
    """After it asked whether the run was still its own, that is, and wakes up when the other one is done."""

    def overtake() -> None:
        with owned(root, 3) as owner:
            write(owner, "third")

    with owned(root, 1) as owner:
        write(owner, "first")
    # At its last write it has nothing more to ask, and leaves the later one's file.
    refused = pytest.raises(RunError, match="another one has taken over") if number < WRITES else nullcontext()
    with owned(root, 2) as owner, before_write(number, overtake), refused:
        write(owner, "second")
    assert (seen(root), beside(root)) == ("third", {"third"})


def test_a_set_without_results_and_files_of_others_are_no_sets(root: Location) -> None:
    with owned(root, 1) as owner:
        write(owner, "mine")
        for name in (
            "000007/ranking.parquet",
            "notes/results.json",
            "9/results.json",
            "results.json",
            "000009/x/results.json",
        ):
            (root / "reductions" / name).create(b"x")
        assert seen(root) == "mine"
        write(owner, "later")
        assert latest_reduction(root).folder.name == "000008"
        # There is no last number behind which a set would not be seen.
        (root / "reductions/999999999999999999/report.html").create(b"x")
        write(owner, "last")
        assert latest_reduction(root).folder.name == "1000000000000000000"
    assert seen(root) == "last"


def test_a_ranking_of_other_results_is_refused(tmp_path: Path) -> None:
    root = Location.of(tmp_path)
    with owned(root, 1) as owner:
        write(owner, "mine")
    for table in (
        pa.table({"name": ["other"]}),
        pa.table({"name": ["other"]}).replace_schema_metadata({"results": "0"}),
    ):
        pq.write_table(table, f"{latest_reduction(root).folder}/ranking.parquet")
        with pytest.raises(ContentError, match=r"000001/ranking\.parquet is not of the results beside it"):
            latest_reduction(root).read_ranking()
