"""Ctrl-C, SIGTERM and `ray job stop` end a job in order: the same command finishes its run, and need not wait.

The job is that of a data set, on a cluster that knows its place.
"""

import functools
import json
import re
import runpy
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from ldm_scale.cli import run_job
from ldm_scale.files.ownership import latest_owner
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from tests.engine.runs import assert_whole
from tests.inline import inline_ray
from tests.jobs.cluster import BIN, ask, clean_environment, folder_of, ray_job, submit
from tests.jobs.conftest import ROOT
from tests.jobs.rows import SAVING, SUBMITTED, check_row, make_place

JOB = f"jobs/{SUBMITTED}.py"
SAMPLES, MEMBERS = 12, 6
# Half a second a sample, committed as soon as it is there: a stop on a busy machine still comes before the end.
SLOW = ("--compute.device", "cpu", "--masks.bins", "5", "--attacks.sima.timesteps", "0:300:1", *SAVING)
FLAGS = (*SLOW, "--compute.batch-size", "1", "--compute.actors", "1", "--compute.rows-per-part", "1")
Begin = Callable[..., "subprocess.Popen[str]"]
GOES_ON = "interrupted; the same command again goes on where this one stopped"


@dataclass(frozen=True)
class Stopped:
    """What a stopped job left: its exit status, or Ray's word for it; its output; and its run's rows by then."""

    status: int | str
    printed: str
    rows: int


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("place"), [SUBMITTED])


def run_of(folder: Path) -> RunDirectory:
    return RunDirectory(Location.of(folder))


@pytest.fixture(scope="module")
def run(place: Path) -> RunDirectory:
    """The run of all jobs on the cluster."""
    return run_of(place / "runs" / SUBMITTED)


@pytest.fixture(scope="module")
def undisturbed(place: Path) -> RunDirectory:
    job = runpy.run_path(str(ROOT / JOB))
    with inline_ray(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("LDM_SCALE_ROOT", str(place))
        flags = (*SLOW, "--out", str(place / "undisturbed"))
        assert run_job(job["__doc__"], job["RECIPE"], flags, dataset=SUBMITTED) == 0
    return run_of(place / "undisturbed")


def wait_for_rows(run: RunDirectory, count: int) -> None:
    deadline = time.monotonic() + 400
    while not (run.root / "run.json").is_file() or run.progress().rows < count:
        assert time.monotonic() < deadline, f"no {count} rows"
        time.sleep(0.1)


def stopped_in_order(run: RunDirectory, status: int | str, printed: str) -> Stopped:
    """The job ended before its end, and said so in its run directory."""
    owner = latest_owner(run.root)
    assert owner is not None
    assert owner.ended
    rows = run.progress().rows
    assert rows < SAMPLES
    return Stopped(status, printed, rows)


@pytest.fixture(scope="module")
def begin(checkout: Path, place: Path) -> Iterator[Begin]:
    """Starts the job with an environment and flags, and ends what a test leaves."""
    begun: list[subprocess.Popen[str]] = []

    def start(environment: dict[str, str], *flags: str) -> "subprocess.Popen[str]":
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        # A shell that started these tests in its background has them ignore Ctrl-C, and so what they start.
        heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        known = environment | {"LDM_SCALE_ROOT": str(place)}
        command = [BIN / "python", JOB, *FLAGS, *flags]
        begun.append(subprocess.Popen(command, cwd=checkout, env=known, text=True, preexec_fn=heed, **pipes))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()


def submitted(place: Path, name: str) -> tuple[str, ...]:
    """The arguments of `ray job submit` for this job, by its path."""
    known = {"LDM_SCALE_ROOT": str(place), "LDM_SCALE_SHARDS": "", "LDM_SCALE_TARGET": ""}
    return ("--submission-id", name, "--runtime-env-json", json.dumps({"env_vars": known}), "--", JOB, *FLAGS)


@pytest.fixture(scope="module")
def interrupted(cluster: dict[str, str], run: RunDirectory, begin: Begin) -> Stopped:
    """The first job, which a terminal started, after its Ctrl-C."""
    gcs = (folder_of(cluster) / "ray/ray_current_cluster").read_text()
    # As `clusters/local.sh status` says.
    job = begin(cluster | {"RAY_ADDRESS": gcs, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"})
    wait_for_rows(run, 1)
    job.send_signal(signal.SIGINT)
    printed = job.communicate(timeout=200)[0]
    return stopped_in_order(run, job.returncode, printed)


@pytest.fixture(scope="module")
def stopped(cluster: dict[str, str], checkout: Path, place: Path, run: RunDirectory, interrupted: Stopped) -> Stopped:
    """The second one, which was submitted, after what `ray job stop` asks for."""
    assert ray_job(cluster, checkout, "submit", "--no-wait", *submitted(place, "stopped")).returncode == 0
    wait_for_rows(run, interrupted.rows + 1)
    assert ask(cluster, "jobs/stopped/stop", "POST") == {"stopped": True}
    while (status := ask(cluster, "jobs/stopped")["status"]) == "RUNNING":
        time.sleep(0.1)
    return stopped_in_order(run, status, ask(cluster, "jobs/stopped/logs")["logs"])


@pytest.fixture(scope="module")
def finished(
    cluster: dict[str, str], checkout: Path, place: Path, stopped: Stopped
) -> "subprocess.CompletedProcess[str]":
    """The third one: `ray job submit jobs/imagenet.py`."""
    done = submit(cluster, checkout, *submitted(place, "finished"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def test_ctrl_c_ends_a_job_in_order(interrupted: Stopped) -> None:
    assert interrupted.status == 130, interrupted.printed
    assert interrupted.printed.splitlines()[-1] == f"{SUBMITTED}.py: {GOES_ON}"


def test_ray_job_stop_ends_a_job_in_order(interrupted: Stopped, stopped: Stopped) -> None:
    assert stopped.status == "STOPPED"
    assert GOES_ON in stopped.printed
    assert stopped.rows > interrupted.rows >= 1


def test_the_next_job_finishes_the_run_of_both(
    undisturbed: RunDirectory, run: RunDirectory, stopped: Stopped, finished: "subprocess.CompletedProcess[str]"
) -> None:
    known = re.search(rf"{SAMPLES} samples \({MEMBERS} members\), (\d+) left in", finished.stdout)
    assert known
    assert SAMPLES - int(known[1]) >= stopped.rows
    assert "another job" not in finished.stdout
    assert_whole(run, undisturbed)


def test_a_submitted_job_audits_the_row_and_has_a_log_to_read(
    cluster: dict[str, str], checkout: Path, place: Path, finished: "subprocess.CompletedProcess[str]"
) -> None:
    assert "succeeded" in finished.stdout
    check_row(SUBMITTED, place, sima=300)
    printed = ray_job(cluster, checkout, "logs", "finished").stdout
    _, begun, log = printed.partition("Running entrypoint for job finished: ")
    first, *lines = log.rstrip().splitlines()
    assert (begun, first.split()) == ("Running entrypoint for job finished: ", [JOB, *FLAGS])
    assert lines[0] == "audit"
    assert lines[1].startswith("  target ")
    beginnings = ("  fingerprint ", f"{place}/runs/{SUBMITTED}: 12 samples", "12 of 12 samples", "\u250f", "report: ")
    places = [next(n for n, line in enumerate(lines) if line.startswith(beginning)) for beginning in beginnings]
    assert places == sorted(places)
    assert places[-1] == len(lines) - 1
    assert [line for line in lines if re.search("INFO|WARN|ERROR|ray[./]|core_worker", line)] == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_with_a_ray_of_its_own_is_stopped(
    number: signal.Signals, status: int, undisturbed: RunDirectory, tmp_path: Path, begin: Begin
) -> None:
    run, out = run_of(tmp_path / "run"), ("--out", str(tmp_path / "run"))
    process = begin(clean_environment(), *out)
    wait_for_rows(run, 1)
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    printed = process.communicate(timeout=200)[0]
    assert process.returncode == status, printed
    assert printed.splitlines()[-1] == f"{SUBMITTED}.py: {GOES_ON}"
    stopped_in_order(run, status, printed)
    assert psutil.wait_procs(below, timeout=60)[1] == []
    again = begin(clean_environment(), *out)
    printed = again.communicate(timeout=200)[0]
    assert again.returncode == 0, printed
    assert "another job" not in printed
    assert_whole(run, undisturbed)
