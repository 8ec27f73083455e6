"""Who owns a run directory: of all jobs that are pointed at one, a single one writes there.

A job takes a run by making the next of the numbered files in owners/, which only one job can do, and then replaces
its own file every few seconds with one more beat. The highest number owns the run. Another job waits for its beat: if
there is one, the newcomer is refused; if there is none for the length of a lease, the owner is dead and the newcomer
makes the next number. No clocks are compared between machines and no file is removed.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from ldm_scale.errors import ExistsError, RunError, UsageError
from ldm_scale.files.storage import Location, read_model

# Seconds between two beats, and seconds without one after which an owner is dead.
BEAT = 5.0
LEASE = 30.0


class Owner(BaseModel):
    """owners/NUMBER.json: a job that took the run, and its last sign of life."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    pid: int
    since: str
    # No two jobs write the same bytes: a file of ours whose answer was lost differs from that of another job.
    token: str = Field(default_factory=lambda: uuid.uuid4().hex)
    beat: int = 0
    ended: bool = False

    def __str__(self) -> str:
        return f"{self.host}, process {self.pid}, since {self.since}"


class Ownership:
    """A run that this process owns, kept by a thread that beats."""

    def __init__(self, root: Location, number: int, owner: Owner) -> None:
        self.number = number
        self._root = root
        self._owner = owner
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def begin(self) -> None:
        """Take the number; raises ExistsError if another job was faster."""
        _file(self._root, self.number).create(self._owner.model_dump_json().encode())
        self._thread.start()

    def check(self) -> None:
        """Raise RunError if another job has taken the run since: this one was silent for longer than a lease."""
        if self._lost:
            raise RunError(f"{self._root}: this job was silent for too long and another one has taken over the run")

    def end(self) -> None:
        """Say that nothing more is written, so that the next job need not wait."""
        self._stop.set()
        self._thread.join(LEASE)
        self._write(ended=True)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT) and not self._lost:
            self._write(beat=self._owner.beat + 1)

    def _write(self, **change: int) -> None:
        self._owner = self._owner.model_copy(update=change)
        # A beat that does not get through is a beat missed: what keeps it from the storage also stops the commits.
        with suppress(UsageError, RunError, OSError):
            _file(self._root, self.number).replace(self._owner.model_dump_json().encode())
            self._lost = _file(self._root, self.number + 1).is_file()


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
    files = (root / "owners").files(".json")
    return (int(files[-1].name.removesuffix(".json")), _read(files[-1])) if files else (0, None)


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
