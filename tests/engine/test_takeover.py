"""A job that is stopped in `reduce` or `report` and taken for dead: when it wakes up, the run is another job's."""

import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ldm_scale.analysis.results import Results
from ldm_scale.cli import main
from ldm_scale.engine import reduce
from ldm_scale.files import ownership
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from ldm_scale.report import page
from tests.made_up import make_run

pytestmark = pytest.mark.usefixtures("inline")


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    # A job that does not beat is taken for dead at once, and none does so early.
    monkeypatch.setattr(ownership, "LEASE", 0)
    root = Location.of(tmp_path if request.param == "local" else request.getfixturevalue("bucket"))
    return make_run(root / "run")


def stop_in(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, meanwhile: Callable[[], None]) -> None:
    """Let something happen while a job is in this function, once."""
    real = getattr(module, name)

    def stopped(*arguments: Any) -> Any:
        monkeypatch.setattr(module, name, real)
        meanwhile()
        return real(*arguments)

    monkeypatch.setattr(module, name, stopped)


def resamples(run: RunDirectory) -> int:
    """The bootstrap of the one reduction that all files beside run.json are of."""
    data = (run.root / "results.json").read_bytes()
    stamp = sha256(data).hexdigest()
    for name in ("metrics.parquet", "ranking.parquet"):
        with (run.root / name).open() as file:
            assert pq.read_schema(file).metadata[b"results"].decode() == stamp
    found = re.findall(r'<meta name="results" content="(\w+)">', (run.root / "report.html").read_text())
    assert found == [stamp]
    assert run.reduction().read_results() == data
    return Results.model_validate_json(data).bootstrap


def reduce_by(run: RunDirectory, bootstrap: int) -> int:
    return main(["reduce", str(run.root), "--bootstrap", str(bootstrap)])


@pytest.mark.parametrize("place", ["least_positive", "ranking_table"])
def test_a_reduction_that_is_overtaken_fails_and_leaves_the_other_one_whole(
    place: str, run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before it wrote anything; tests/files has every later moment."""
    outcomes: list[int] = []
    stop_in(monkeypatch, reduce, place, lambda: outcomes.append(reduce_by(run, 30)))
    assert reduce_by(run, 20) == 1
    assert outcomes == [0]
    assert "another one has taken over the run" in capsys.readouterr().err.splitlines()[-1]
    assert resamples(run) == 30
    assert len(run.reduction().folder.name) == 6
    assert reduce_by(run, 40) == 0
    assert resamples(run) == 40


def test_a_report_that_is_overtaken_fails_and_leaves_the_other_reduction_whole(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reduce_by(run, 20) == 0
    stop_in(monkeypatch, page, "facts", lambda: reduce_by(run, 30) and None)
    assert main(["report", str(run.root)]) == 1
    assert "another one has taken over the run" in capsys.readouterr().err.splitlines()[-1]
    assert resamples(run) == 30
    assert main(["report", str(run.root)]) == 0
    assert resamples(run) == 30


@pytest.mark.parametrize("command", ["reduce", "report"])
def test_a_driver_that_dies_in_it_leaves_what_was_there(
    command: str, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise SystemExit

    assert reduce_by(run, 20) == 0
    monkeypatch.setattr(page, "facts", die)
    with pytest.raises(SystemExit):
        main([command, str(run.root), *(["--bootstrap", "30"] if command == "reduce" else [])])
    assert Results.model_validate_json((run.root / "results.json").read_bytes()).bootstrap == 20
    monkeypatch.undo()
    monkeypatch.setattr(ownership, "LEASE", 0)
    assert main(["report", str(run.root)]) == 0
    assert resamples(run) == (30 if command == "reduce" else 20)
    assert main(["status", str(run.root)]) == 0


def test_a_report_waits_for_the_job_that_has_the_run(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reduce_by(run, 20) == 0
    monkeypatch.setattr(ownership, "BEAT", 0.1)
    monkeypatch.setattr(ownership, "LEASE", 5.0)
    before = (run.root / "report.html").read_bytes()
    with ownership.own(run.root, pytest.fail):
        assert main(["report", str(run.root)]) == 2
    assert "is running here; let it end first" in capsys.readouterr().err
    assert (run.root / "report.html").read_bytes() == before
