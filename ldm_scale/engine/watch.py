"""The parts of Ray without which a driver cannot go on, watched by a thread that ends its work if one is lost."""

import os
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from ldm_scale.engine.blame import LostError
from ldm_scale.errors import GOES_ON
from ldm_scale.terminal import say

# Seconds between two looks at Ray's own parts, and for which they may be silent: those of this machine, and the head of
# a cluster, which is given a minute by Ray.
BEAT = 2.0
SILENT = 4.0
HEAD_SILENT = 45.0
# Seconds in which the main thread must have heard of a loss.
GRACE = 8.0


@contextmanager
def attended() -> Iterator[None]:
    """Raise LostError if the head of the cluster, or this machine's part of it, no longer takes connections.

    Ray itself would end this process before it has said so, or say so at length.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    lost: list[str] = []
    over, ending = threading.Event(), threading.Lock()
    places = _places()

    def attend() -> None:
        silent = Counter[str]()
        while not over.wait(BEAT):
            for what, (family, address, patience) in places.items():
                silent[what] = 0 if _answers(family, address) else silent[what] + 1
                if silent[what] * BEAT >= patience:
                    with ending:
                        if over.is_set():
                            return
                        lost.append(f"{what} was killed or cannot be reached any more; {GOES_ON}")
                        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                    if not over.wait(GRACE):
                        # The main thread waits inside Ray for what will not come, and hears no signal.
                        say(f"ldm-scale: error: {lost[0]}", sys.stderr)
                        os._exit(LostError.exit_status)
                    return

    thread = threading.Thread(target=attend, daemon=True)
    thread.start()
    try:
        try:
            yield
        finally:
            # The thread is not waited for, as it may wait itself: a job that is stopped has three seconds.
            with ending:
                over.set()
    except KeyboardInterrupt:
        if lost:
            raise LostError(lost[0]) from None
        raise


def _places() -> dict[str, tuple[int, Any, float]]:
    """Where the head and this machine's part of the cluster take connections, and how long they may be silent."""
    gcs = ray.get_runtime_context().gcs_address
    host, port = gcs.rsplit(":", 1)
    # The head of a cluster may be started anew.
    patience = HEAD_SILENT if "RAY_ADDRESS" in os.environ else SILENT
    head = (socket.AF_INET, (host.strip("[]"), int(port)), patience)
    raylet = (socket.AF_UNIX, ray._private.worker._global_node.raylet_socket_name, SILENT)
    return {f"the head of the Ray cluster (its GCS at {gcs})": head, "the raylet of this machine": raylet}


def _answers(family: int, address: Any) -> bool:
    try:
        if family == socket.AF_INET:
            socket.create_connection(address, BEAT).close()
        else:
            with socket.socket(family) as connection:
                connection.settimeout(BEAT)
                connection.connect(address)
    except OSError:
        return False
    return True
