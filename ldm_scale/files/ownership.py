"""Who owns a run directory: of all jobs that are pointed at one, a single one writes there.

A job takes a run by making the next of the numbered files in owners/, which only one job can do, and then replaces
its own file every few seconds with one more beat. The highest number owns the run. Another job waits for its beat: if
there is one, the newcomer is refused; if there is none for the length of a lease, the owner is dead and the newcomer
makes the next number. No clocks are compared between machines and no file is removed.
"""

import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import Field

from ldm_scale.config.base import Record
from ldm_scale.errors import ExistsError, RunError, UsageError
from ldm_scale.files.storage import Location, read_model

# Seconds between two beats, and seconds without one after which an owner is dead.
BEAT = 5.0
LEASE = 30.0
# The pattern of a number in the name of a file or folder; there is no last one.
NUMBER = r"\d{6}|[1-9]\d{6,}"
# Characters of a name or a time in a record: status prints them.
LONGEST = 300


class Owner(Record):
    """owners/NUMBER.json: a job that took the run, and its last sign of life."""

    host: str = Field(max_length=LONGEST)
    pid: int
    since: str = Field(max_length=LONGEST)
    # No two jobs write the same bytes: a file of ours whose answer was lost differs from that of another job.
    token: str = Field(default_factory=lambda: uuid.uuid4().hex)
    beat: int = 0
    ended: bool = False

    def __str__(self) -> str:
        return f"{self.host}, process {self.pid}, since {self.since}"


@dataclass(frozen=True)
class Claim:
    """A number of a run that a job has taken; it travels to whoever writes for that job."""

    root: Location
    number: int
    token: str

    def check(self) -> None:
        """Look whether the run is still this job's; to be asked before each write.

        Raises:
            RunError: Another job has taken it, as this one was silent for too long, or the sign of this one is gone.
        """
        number, latest = _latest(self.root)
        if number > self.number:
            raise RunError(
                f"{self.root}: this job was silent for too long and another one has taken over the run ({latest}); "
                "nothing more is written"
            )
        if latest is None or latest.token != self.token:
            sign = _file(self.root, self.number)
            raise RunError(f"{sign}, the sign of this job, is gone or another job's; nothing more is written")


class Ownership:
    """A run that this process owns, kept by a thread that beats."""

    def __init__(self, root: Location, number: int, owner: Owner) -> None:
        self.claim = Claim(root, number, owner.token)
        self._owner, self._sign = owner, _file(root, number)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def begin(self) -> None:
        """Take the number.

        Raises:
            ExistsError: Another job was faster.
            UsageError: The storage would have let both take it.
        """
        self._sign.create(self._owner.model_dump_json().encode())
        if not self._sign.is_local:
            self._check_kept()
        self._thread.start()

    def _check_kept(self) -> None:
        """Raise UsageError if a server of S3 writes an object that there is already: some pass over If-None-Match."""
        with suppress(ExistsError):
            self._sign.create(b"")
            self._sign.replace(self._owner.model_copy(update={"ended": True}).model_dump_json().encode())
            raise UsageError(
                f"{self.claim.root}: this server of S3 overwrites objects that it is asked to keep (If-None-Match), so "
                "that two jobs could take one run; update it, or give a local folder"
            )

    def check(self) -> None:
        """Raise RunError if the run is no longer this job's; to be asked before each write."""
        self.claim.check()

    def end(self) -> None:
        """Say that nothing more is written, so that the next job need not wait."""
        self._stop.set()
        self._thread.join(LEASE)
        self._write(ended=True)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            self._write(beat=self._owner.beat + 1)

    def _write(self, **change: int) -> None:
        self._owner = self._owner.model_copy(update=change)
        # A beat that does not get through is a beat missed: what keeps it from the storage also stops the commits.
        # A sign that is gone stays gone: another job may have the number by now.
        with suppress(UsageError, RunError, OSError):
            if _read(self._sign).token == self.claim.token:
                self._sign.replace(self._owner.model_dump_json().encode())


@contextmanager
def own(root: Location, say: Callable[[str], None]) -> Iterator[Ownership]:
    """Own a run directory for the length of a block; `say` shows why this takes a while after a job that died.

    Raises:
        UsageError: Another job owns it and lives.
    """
    number, earlier = _latest(root)
    if earlier is not None and not earlier.ended:
        say(f"{root}: another job ({earlier}) may be running here; waiting {LEASE:.0f} s for a sign of it")
        _wait(root, number, earlier)
    now = datetime.now(UTC).isoformat(" ", "seconds")
    ownership = Ownership(root, number + 1, Owner(host=socket.gethostname(), pid=os.getpid(), since=now))
    try:
        ownership.begin()
    except ExistsError:
        raise UsageError(f"{root}: another job has just taken this run; let it end first") from None
    try:
        yield ownership
    finally:
        ownership.end()


def latest_owner(root: Location) -> Owner | None:
    """The job that owns a run directory or was the last to do so, if any did."""
    return _latest(root)[1]


def _latest(root: Location) -> tuple[int, Owner | None]:
    """The highest number taken, and by whom.

    Raises:
        UsageError: A file there is none of a job.
    """
    numbers = [_number(file) for file in (root / "owners").files(".json")]
    return (max(numbers), _read(_file(root, max(numbers)))) if numbers else (0, None)


def _number(file: Location) -> int:
    if not (found := re.fullmatch(rf"({NUMBER})\.json", file.name, re.ASCII)):
        raise UsageError(f"{file} is not the record of a job; move it away")
    return int(found[1])


def _file(root: Location, number: int) -> Location:
    return root / "owners" / f"{number:06d}.json"


def _read(file: Location) -> Owner:
    return read_model(file, Owner, "the record of a job")


def _wait(root: Location, number: int, earlier: Owner) -> None:
    """Return when an owner has ended or was silent for a lease; raises UsageError at its first beat."""
    deadline = time.monotonic() + LEASE
    while time.monotonic() < deadline:
        time.sleep(BEAT)
        owner = _read(_file(root, number))
        if owner.ended:
            return
        if owner.beat != earlier.beat:
            raise UsageError(f"{root}: another job ({owner}) is running here; let it end first, or give another out")
