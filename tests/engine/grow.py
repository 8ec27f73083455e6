"""An audit that only waits, on a Ray that grows: `python -m tests.engine.grow CONFIG RAY-FOLDER [lose]`.

With `lose`, the machine of one auditor disappears in the middle. Prints what was seen as one JSON line at the end.
"""

import json
import sys
import threading
import time
from pathlib import Path

import ray

from ldm_scale.benchmarks.scale import run_graph
from ldm_scale.benchmarks.simulated import waiting
from ldm_scale.config.audit import AuditConfig
from ldm_scale.engine.session import session
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from tests.engine.autoscaling import HEAD, processes

BATCH_SECONDS = 1.0


def workers() -> set[str]:
    """The ids of the living nodes, without the head."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]} - {HEAD}


def lose_one(folder: str, run: RunDirectory) -> None:
    """Once two nodes work and rows come, kill the raylet of one, and with it all that ran there."""
    while len(workers()) < 2 or not run.parts():
        time.sleep(0.2)
    node = sorted(workers())[0]
    for process in processes(folder):
        if process.name() == "raylet" and process.environ().get("RAY_OVERRIDE_NODE_ID_FOR_TESTING") == node:
            process.kill()


def main(path: Path, folder: str, lose: bool) -> None:
    config = AuditConfig.model_validate_json(path.read_bytes())
    run = RunDirectory(Location.of(config.out))
    seen: set[str] = set()
    most, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.5):
            now = workers()
            seen.update(now)
            most = max(most, len(now))

    with session():
        before = len(workers())
        threads = [threading.Thread(target=watch, daemon=True)]
        threads += [threading.Thread(target=lose_one, args=(folder, run), daemon=True)] if lose else []
        for thread in threads:
            thread.start()
        run_graph(config, waiting(BATCH_SECONDS))
        until = time.monotonic() + 60
        while workers() and time.monotonic() < until:
            time.sleep(0.5)
        ended.set()
        found = {"before": before, "most": most, "seen": len(seen), "after": len(workers())}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:] == ["lose"])
