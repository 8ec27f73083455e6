"""Ownership of a run directory, on a local disk and on S3: one owner at a time, whoever dies, and no file removed."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from ldm_scale.errors import RunError, UsageError
from ldm_scale.files import ownership
from ldm_scale.files.ownership import Owner, latest_owner, own
from ldm_scale.files.storage import Location

DEAD = Owner(host="elsewhere", pid=7, since="2026-01-01 00:00:00+00:00", beat=41)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "BEAT", 0.05)
    monkeypatch.setattr(ownership, "LEASE", 3.0)


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return Location.of(tmp_path if request.param == "local" else request.getfixturevalue("bucket")) / "run"


@pytest.fixture
def said() -> list[str]:
    return []


def plant(root: Location, owner: Owner, number: int = 1) -> Location:
    file = root / f"owners/{number:06d}.json"
    file.replace(owner.model_dump_json().encode())
    return file


def numbers(root: Location) -> list[str]:
    return [file.name for file in (root / "owners").files(".json")]


class Job:
    """A job in a process of its own, which owns a run until its input ends."""

    CODE = """
import sys
from ldm_scale.files import ownership
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location
ownership.BEAT, ownership.LEASE = 0.05, 3.0
try:
    with ownership.own(Location.of(sys.argv[1]), lambda line: None) as owner:
        print(owner.number, flush=True)
        sys.stdin.read()
except UsageError as error:
    print(error)
"""

    def __init__(self, root: Location) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, "-c", self.CODE, root.uri], text=True, **pipes)
        assert self.process.stdout is not None
        self.says = self.process.stdout.readline().strip()


def until(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        time.sleep(0.05)
    raise TimeoutError


def test_one_after_the_other_need_not_wait(root: Location, said: list[str]) -> None:
    assert latest_owner(root) is None
    for number in (1, 2):
        with own(root, said.append) as owner:
            assert owner.number == number
            owner.check()
            now = latest_owner(root)
            assert now is not None
            assert (now.host, now.pid, now.ended) == (socket.gethostname(), os.getpid(), False)
        assert latest_owner(root).ended  # type: ignore[union-attr]
    assert numbers(root) == ["000001.json", "000002.json"]
    assert said == []


def test_a_second_job_is_refused_while_the_first_one_lives(root: Location, said: list[str]) -> None:
    with own(root, said.append) as owner:
        with pytest.raises(UsageError, match=rf"run: another job \(.*, process {os.getpid()}, since .* is running"):
            own(root, said.append).__enter__()
        owner.check()
        assert numbers(root) == ["000001.json"]
    assert len(said) == 1
    assert f"process {os.getpid()}, since" in said[0]


def test_the_run_of_a_dead_job_is_taken_over_after_its_lease(root: Location, said: list[str]) -> None:
    file = plant(root, DEAD)
    before = file.read_bytes()
    with own(root, said.append) as owner:
        assert owner.number == 2
    assert said == [
        f"{root}: another job (elsewhere, process 7, since 2026-01-01 00:00:00+00:00) may be running here; "
        "waiting 3 s for a sign of it"
    ]
    assert file.read_bytes() == before
    assert numbers(root) == ["000001.json", "000002.json"]


def test_a_job_that_ends_while_it_is_watched_hands_over(root: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last sign of life is no reason to refuse."""
    monkeypatch.setattr(ownership, "LEASE", 60.0)
    plant(root, DEAD)
    ended = DEAD.model_copy(update={"beat": DEAD.beat + 1, "ended": True})
    with own(root, lambda line: plant(root, ended) and None) as owner:
        assert owner.number == 2


def test_of_several_newcomers_one_takes_over(root: Location) -> None:
    plant(root, DEAD)
    together = threading.Barrier(5)
    outcomes: list[int | str] = []
    over = threading.Event()

    def come() -> None:
        together.wait()
        try:
            with own(root, lambda line: None) as owner:
                outcomes.append(owner.number)
                over.wait()
        except UsageError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=come) for _ in range(5)]
    for thread in threads:
        thread.start()
    until(lambda: len(outcomes) == 5)
    over.set()
    for thread in threads:
        thread.join()
    refused = [outcome for outcome in outcomes if outcome != 2]
    assert len(refused) == 4
    assert all("run: another job" in outcome for outcome in refused)
    assert numbers(root) == ["000001.json", "000002.json"]


def test_a_second_process_is_refused_until_the_first_one_is_killed(root: Location) -> None:
    first = Job(root)
    assert first.says == "1"
    assert f"another job ({socket.gethostname()}, process {first.process.pid}, since" in Job(root).says
    first.process.kill()
    third = Job(root)
    assert third.says == "2"
    third.process.communicate()
    assert third.process.returncode == 0
    with own(root, pytest.fail) as owner:
        assert owner.number == 3


@pytest.mark.parametrize("error", [RunError, KeyboardInterrupt, SystemExit])
def test_a_job_that_fails_or_is_interrupted_has_ended(tmp_path: Path, error: type[BaseException]) -> None:
    root = Location.of(tmp_path)
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(error))
        stack.enter_context(own(root, print))
        raise error
    assert latest_owner(root).ended  # type: ignore[union-attr]


def test_an_owner_that_was_taken_for_dead_stops(root: Location) -> None:
    def stopped(owner: ownership.Ownership) -> bool:
        with suppress(RunError):
            owner.check()
            return False
        return True

    with own(root, print) as owner:
        later = plant(root, DEAD, 2)
        until(lambda: stopped(owner))
        with pytest.raises(RunError, match="another one has taken over the run"):
            owner.check()
        before = later.read_bytes()
    assert later.read_bytes() == before
    assert json.loads((root / "owners/000001.json").read_bytes())["ended"]


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> list[Location]:
    """The files of all writes, of which the first four do not get through."""
    tried: list[Location] = []
    replace = Location.replace

    def fail(location: Location, data: bytes) -> None:
        tried.append(location)
        if len(tried) < 5:
            raise RunError("the storage does not answer")
        replace(location, data)

    monkeypatch.setattr(Location, "replace", fail)
    return tried


def test_a_beat_that_does_not_get_through_is_only_missed(tmp_path: Path, deaf: list[Location]) -> None:
    root = Location.of(tmp_path)
    with own(root, print) as owner:
        until(lambda: latest_owner(root).beat > 5)  # type: ignore[union-attr]
        owner.check()
    assert len(deaf) > 5
