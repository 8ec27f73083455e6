"""Independent pieces of work as Ray tasks, a bounded number of them at a time."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray

from ldm_scale.engine.blame import blamed
from ldm_scale.terminal import say

# Reading waits for disks and networks, decoding does not: two tasks a CPU keep both busy.
CPUS = 0.5
# Seconds between two progress lines.
EVERY = 30

T = TypeVar("T")
R = TypeVar("R")


@ray.remote(num_cpus=CPUS)
def _apply(function: Callable[[Any], Any], task: Any) -> Any:
    with blamed():
        return function(task)


def in_parallel(function: Callable[[T], R], tasks: Sequence[T], what: str) -> Iterator[R]:
    """Results of Ray tasks in the order of `tasks`, with a progress line now and then; needs a connected Ray."""
    pending: deque[ray.ObjectRef] = deque()
    waiting = iter(tasks)
    last = time.monotonic()
    for done in range(len(tasks)):
        # Twice as many as the cluster, as large as it is now, can run at a time: none waits for work.
        most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1) / CPUS))
        while len(pending) < most and (task := next(waiting, None)) is not None:
            pending.append(_apply.remote(function, task))
        yield ray.get(pending.popleft())
        if time.monotonic() - last > EVERY or done + 1 == len(tasks):
            say(f"{what}: {done + 1} of {len(tasks)}")
            last = time.monotonic()
