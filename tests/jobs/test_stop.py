"""Ctrl-C, SIGTERM and `ray job stop` end a job in order: the same command finishes its run, and need not wait."""

import functools
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from ldm_scale.config.audit import AuditConfig
from ldm_scale.engine.audit import run_audit
from ldm_scale.files.ownership import latest_owner
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from tests.engine.runs import assert_whole, make_config
from tests.inline import inline_ray
from tests.jobs.cluster import BIN, clean_environment, folder_of, ray_job

SAMPLES = 48
# Half a second a sample, committed as soon as it is there: a stop on a busy machine still comes before the end.
SLOW: dict[str, object] = {
    "attacks": {"sima": {"timesteps": "0:400:1"}},
    "geometry": {"influence": "hutchinson", "probes": 2, "distortion": "off"},
    "masks": {"bins": 5},
    "compute": {"device": "cpu", "batch_size": 1, "actors": 1, "rows_per_part": 1},
}
Begin = Callable[[dict[str, str]], "subprocess.Popen[str]"]
GOES_ON = "interrupted; the same command again goes on where this one stopped"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path, tiny_target: Path) -> RunDirectory:
    config = make_config(tmp_path_factory.mktemp("undisturbed") / "run", tiny_shards, tiny_target, **SLOW)
    with inline_ray():
        run_audit(config.model_copy(update={"compute": config.compute.model_copy(update={"batch_size": 24})}))
    return RunDirectory(Location.of(config.out))


@pytest.fixture
def config(tmp_path: Path, tiny_shards: Path, tiny_target: Path) -> AuditConfig:
    config = make_config(tmp_path / "run", tiny_shards, tiny_target, **SLOW)
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return config


@pytest.fixture
def run(config: AuditConfig) -> RunDirectory:
    return RunDirectory(Location.of(config.out))


def wait(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 400
    while not reached():
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.1)


def wait_for_rows(run: RunDirectory, count: int) -> None:
    wait(lambda: (run.root / "run.json").is_file() and run.progress().rows >= count, f"{count} rows")


def assert_stopped(run: RunDirectory) -> None:
    """It ended before its end, and said so in its run directory."""
    owner = latest_owner(run.root)
    assert owner is not None
    assert owner.ended
    assert run.progress().rows < SAMPLES


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Starts the audit with an environment, and ends what a test leaves."""
    begun: list[subprocess.Popen[str]] = []

    def start(environment: dict[str, str]) -> "subprocess.Popen[str]":
        command = [BIN / "ldm-scale", "audit", "--config", tmp_path / "audit.yaml"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        # A shell that started these tests in its background has them ignore Ctrl-C, and so what they start.
        heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        begun.append(subprocess.Popen(command, env=environment, text=True, preexec_fn=heed, **pipes))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()


def test_interrupted_and_stopped_jobs_leave_a_run_that_the_next_one_finishes(
    undisturbed: RunDirectory,
    run: RunDirectory,
    cluster: dict[str, str],
    checkout: Path,
    tmp_path: Path,
    begin: Begin,
) -> None:
    """Of three jobs on a cluster Ctrl-C ends the first, `ray job stop` the second; the third has the rows of both."""
    gcs = (folder_of(cluster) / "ray/ray_current_cluster").read_text()
    # As `clusters/local.sh status` says.
    first = begin(cluster | {"RAY_ADDRESS": gcs, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"})
    wait_for_rows(run, 4)
    first.send_signal(signal.SIGINT)
    printed = first.communicate(timeout=200)[0]
    assert first.returncode == 130, printed
    assert printed.splitlines()[-1] == f"ldm-scale: {GOES_ON}"
    assert_stopped(run)

    command = ("--", "ldm-scale", "audit", "--config", str(tmp_path / "audit.yaml"))
    assert ray_job(cluster, checkout, "submit", "--no-wait", "--submission-id", "second", *command).returncode == 0
    wait_for_rows(run, run.progress().rows + 4)
    assert ray_job(cluster, checkout, "stop", "second").returncode == 0
    assert "STOPPED" in ray_job(cluster, checkout, "list").stdout
    assert GOES_ON in ray_job(cluster, checkout, "logs", "second").stdout
    assert_stopped(run)
    done = run.progress().rows

    third = ray_job(cluster, checkout, "submit", *command)
    assert third.returncode == 0, third.stdout[-2000:]
    known = re.search(rf"{SAMPLES} samples \(24 members\), (\d+) left in", third.stdout)
    assert known
    assert SAMPLES - int(known[1]) >= done > 8
    assert "another job" not in third.stdout
    assert_whole(run, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_with_a_ray_of_its_own_is_stopped(
    number: signal.Signals, status: int, undisturbed: RunDirectory, run: RunDirectory, begin: Begin
) -> None:
    process = begin(clean_environment())
    wait_for_rows(run, 4)
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    printed = process.communicate(timeout=200)[0]
    assert process.returncode == status, printed
    assert printed.splitlines()[-1] == f"ldm-scale: {GOES_ON}"
    assert_stopped(run)
    assert psutil.wait_procs(below, timeout=60)[1] == []
    again = begin(clean_environment())
    printed = again.communicate(timeout=200)[0]
    assert again.returncode == 0, printed
    assert "another job" not in printed
    assert_whole(run, undisturbed)
