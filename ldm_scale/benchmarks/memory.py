"""The memory of a job's processes by kind, looked at again and again as they come and go."""

import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

# What Ray calls a worker while it does such work: its title names the class or the function.
KINDS = {"readers": "read_shards", "decoders": "decode_images", "auditors": "Auditor", "writers": "commit_rows"}
# Seconds between two looks: each reads of all processes of the machine, in the driver.
EVERY = 1.0
# Of Linux's own account of a process: what it shares with no other, and the most it ever held, shared memory included
# (Ray's object store is shared).
OWN, MOST = "RssAnon", "VmHWM"


def process_bytes(pid: int, kind: str) -> int:
    """Bytes of memory of a process, OWN or MOST.

    Raises:
        OSError: The process has ended.
    """
    found = re.search(rf"{kind}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return 1024 * int(found[1]) if found else 0  # a process that is ending has no memory any more


@contextmanager
def again_and_again(look: Callable[[], None], every: float) -> Iterator[None]:
    """Call look() every so many seconds, in a thread of its own, for the length of the block."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def watched() -> Iterator[dict[str, int]]:
    """Bytes of the largest process of each kind at any look within the block: the driver, and the kinds of workers."""
    peaks: dict[str, int] = defaultdict(int)
    driver = psutil.Process()

    def look() -> None:
        peaks["driver"] = max(peaks["driver"], process_bytes(driver.pid, OWN))
        for process in driver.children(recursive=True):
            with suppress(psutil.Error, OSError):  # it ended meanwhile
                title = " ".join(process.cmdline()) if process.name().startswith("ray::") else ""
                for kind in (kind for kind, word in KINDS.items() if word in title):
                    peaks[kind] = max(peaks[kind], process_bytes(process.pid, OWN))

    with again_and_again(look, EVERY):
        yield peaks
