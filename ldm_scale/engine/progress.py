"""Progress lines: printed by the driver, wherever the work happens."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ray.util.queue import Queue

from ldm_scale.errors import printable


def say(line: str) -> None:
    """One progress line on standard output, at once, also where that is a pipe."""
    print(printable(line), flush=True)  # noqa: T201


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
