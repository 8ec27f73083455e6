"""Progress lines: printed by the driver, wherever the work happens."""

import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ray.util.queue import Queue

from ldm_scale.engine import telemetry
from ldm_scale.report.labels import duration
from ldm_scale.terminal import say

# Seconds between two lines: in the first minute, and later.
OFTEN, SELDOM = 10, 60
# Lines over which the rate is taken.
WINDOW = 6
# What is said once, by whether there are auditors yet, if the first rows are long in coming.
WAITED_FOR = {
    False: "waiting for auditors to start, each of which loads its libraries and the target",
    True: "waiting for the first rows: auditors trace the target's decoder, and compute",
}


@contextmanager
def relay() -> Iterator[Queue]:
    """A queue whose lines the driver prints as they come, until the block ends."""
    queue = Queue(actor_options={"num_cpus": 0})

    def print_lines() -> None:
        while (line := queue.get()) is not None:
            say(line)

    printer = threading.Thread(target=print_lines, daemon=True)
    printer.start()
    try:
        yield queue
    finally:
        queue.put(None)
        printer.join()
        queue.shutdown()


class Progress:
    """How far a run is: samples by shard, rejects, and the rate over the last lines."""

    def __init__(self, expected: Mapping[str, int], done: Mapping[str, int], rejected: int, clock: Callable[[], float]):
        """expected, done: samples by shard stem. clock: seconds."""
        self._expected, self._done = expected, Counter(done)
        self.rejected = rejected
        self.begun = False
        self._clock = clock
        self._history = deque([(clock(), self._done.total())], maxlen=WINDOW)

    def add(self, shard: str, rows: int, rejects: int) -> None:
        """Count what was committed of one shard."""
        self._done[shard] += rows + rejects
        self.rejected += rejects
        self.begun = True

    def line(self, pool_size: int) -> str:
        """How far the run is now, and how long it will take if it goes on as in the last lines."""
        samples, done, now = sum(self._expected.values()), self._done.total(), self._clock()
        shards = sum(self._done[stem] >= count for stem, count in self._expected.items())
        since, before = self._history[0]
        self._history.append((now, done))
        rate = (done - before) / max(now - since, 1e-9)
        left = samples - done
        soon = f"{duration(left / rate)} to go" if rate else "none came lately"
        return (
            f"{done:,} of {samples:,} samples, {shards:,} of {len(self._expected):,} shards, {rate:,.1f} samples/s, "
            f"{left:,} left, {soon}, {self.rejected:,} rejected, {pool_size} auditors"
        )


@contextmanager
def reported(progress: Progress, pool_size: Callable[[], int]) -> Iterator[None]:
    """Say a line of progress every ten seconds of the first minute, then every minute, and one at the end.

    Before anything is committed, what is waited for is said instead, once.
    """
    ended = threading.Event()
    said: set[bool] = set()

    def report() -> None:
        size = pool_size()
        telemetry.pool_size(size)
        if progress.begun:
            say(progress.line(size))
        elif bool(size) not in said:
            said.add(bool(size))
            say(WAITED_FOR[bool(size)])

    def report_on() -> None:
        for number in itertools.count():
            if ended.wait(OFTEN if number < SELDOM // OFTEN else SELDOM):
                return
            report()

    reporter = threading.Thread(target=report_on, daemon=True)
    reporter.start()
    try:
        yield
        report()
    finally:
        ended.set()
        reporter.join()
