"""An audit on a cluster of two nodes, of which one is removed: `python -m tests.engine.lose_node CONFIG`.

In a process of its own, as Ray's cluster for tests starts and ends nodes on the main thread only.
"""

import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

from ldm_scale.config.audit import AuditConfig
from ldm_scale.engine.audit import run_audit
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location


def auditors(node: Any) -> int:
    """How many auditor actors a node runs, by the titles that Ray gives its workers."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return sum("AuditorActor" in " ".join(worker.cmdline()) for worker in raylet.children())


def main(path: Path) -> None:
    config = AuditConfig.model_validate_json(path.read_bytes())
    run = RunDirectory(Location.of(config.out))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    node = cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    # Two on each node, and no room for more: those that are lost wait for a place until the others have none to do.
    compute = config.compute.model_copy(update={"actors": (0, 4), "cpus_per_actor": 0.8})
    audit = threading.Thread(target=run_audit, args=(config.model_copy(update={"compute": compute}),), daemon=True)
    audit.start()
    while len(run.parts()) < 10:
        time.sleep(0.1)
    lost = auditors(node)
    cluster.remove_node(node, allow_graceful=False)
    sys.stdout.write(f"a node with {lost} auditors is gone\n")
    audit.join()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
