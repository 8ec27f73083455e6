"""Ownership of a run directory, on a local disk and on S3: one owner at a time, whoever dies, and no file removed."""

import json
import os
import shutil
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
from ldm_scale.files import ownership, s3
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
from ldm_scale.files import ownership, s3
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location
ownership.BEAT, ownership.LEASE = 0.05, 3.0
try:
    with ownership.own(Location.of(sys.argv[1]), lambda line: None) as owner:
        print(owner.claim.number, flush=True)
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
            assert owner.claim.number == number
            owner.check()
            now = latest_owner(root)
            assert now is not None
            assert (now.host, now.pid, now.ended) == (socket.gethostname(), os.getpid(), False)
        assert latest_owner(root).ended  # type: ignore[union-attr]
    assert numbers(root) == ["000001.json", "000002.json"]
    assert said == []


def test_a_server_that_overwrites_what_it_should_keep_is_refused(
    bucket: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """seaweedfs #7153: it passed over If-None-Match. Where it is kept, the job that was refused has ended."""
    root = Location.of(bucket) / "run"
    with monkeypatch.context() as patch:
        patch.setattr(s3, "create", s3.put)
        with (
            pytest.raises(UsageError, match=r"run: this server of S3 overwrites .* \(If-None-Match\)"),
            own(root, said.append),
        ):
            raise AssertionError("owned")
    with own(root, said.append) as owner:
        assert owner.claim.number == 2
    assert (said, numbers(root)) == ([], ["000001.json", "000002.json"])


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
        assert owner.claim.number == 2
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
        assert owner.claim.number == 2


def test_of_several_newcomers_one_takes_over(root: Location) -> None:
    plant(root, DEAD)
    together = threading.Barrier(5)
    outcomes: list[int | str] = []
    over = threading.Event()

    def come() -> None:
        together.wait()
        try:
            with own(root, lambda line: None) as owner:
                outcomes.append(owner.claim.number)
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
        assert owner.claim.number == 3


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


@pytest.mark.parametrize(
    "name", ["notes.json", "1.json", "000001.json.json", "-00001.json", "0000001.json", "१२३४५६.json"]
)
def test_a_foreign_file_among_the_owners_is_named(name: str, root: Location) -> None:
    with own(root, pytest.fail):
        pass
    file = root / "owners" / name
    file.create(DEAD.model_dump_json().encode())
    for ask in (lambda: latest_owner(root), lambda: own(root, pytest.fail).__enter__()):
        with pytest.raises(UsageError, match="is not the record of a job; move it away") as caught:
            ask()
        assert str(file) in str(caught.value)


LONG = DEAD.model_dump_json().replace("elsewhere", "x" * 3_000_000).encode()


@pytest.mark.parametrize("content", [b"", b"{", b"<html></html>", b"[" * 100_000, b'{"host": 1}', LONG])
def test_a_broken_record_of_an_owner_is_named(content: bytes, root: Location) -> None:
    (root / "owners/000003.json").create(content)
    with pytest.raises(UsageError, match=r"owners/000003\.json is not the record of a job") as caught:
        latest_owner(root)
    assert "\n" not in str(caught.value)


def test_numbers_are_counted_not_spelled(root: Location, said: list[str]) -> None:
    for taken in (999_999, 10**18 - 1):
        plant(root, DEAD.model_copy(update={"ended": True}), taken)
        for number in (taken + 1, taken + 2):
            with own(root, said.append) as owner:
                assert owner.claim.number == number
                owner.check()
    assert said == []


def test_a_job_sees_at_once_that_it_was_overtaken(root: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first write after it was stopped, before any beat of its own."""
    monkeypatch.setattr(ownership, "BEAT", 1000.0)
    with own(root, print) as owner:
        for ask in (owner.check, owner.claim.check):
            ask()
        # Not the next number: who looked at the same time may have taken that, and died.
        plant(root, DEAD, 3)
        for ask in (owner.check, owner.claim.check):
            with pytest.raises(RunError, match=r"another one has taken over the run \(elsewhere, process 7"):
                ask()


@pytest.mark.parametrize("gone", [True, False])
def test_a_job_whose_sign_is_removed_writes_nothing_more(gone: bool, tmp_path: Path) -> None:
    """Its folder is gone, or another job has begun there anew by the same number."""
    root = Location.of(tmp_path / "run")
    with own(root, print) as owner:
        shutil.rmtree(tmp_path / "run")
        if not gone:
            plant(root, DEAD)
        with pytest.raises(RunError, match=r"owners/000001\.json, the sign of this job, is gone or another job's"):
            owner.check()
        # Some beats.
        time.sleep(0.3)
    assert (tmp_path / "run").exists() != gone
    assert latest_owner(root) == (None if gone else DEAD)


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_jumps_neither_kills_a_job_nor_keeps_a_dead_one_alive(
    hours: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, root = time.time, Location.of(tmp_path)
    with own(root, print) as owner:
        monkeypatch.setattr(time, "time", lambda: now() + 3600 * hours)
        with pytest.raises(UsageError, match="is running here"):
            own(root, print).__enter__()
        owner.check()
    plant(root, DEAD, 2)
    began = time.monotonic()
    with own(root, print) as owner:
        assert owner.claim.number == 3
    assert 1 <= time.monotonic() - began < 30


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
