"""A Ray of a test's own that grows: its autoscaler adds nodes of one pretended GPU each, all on this machine."""

import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.jobs.cluster import BIN, clean_environment, free_port

# Ray's pretended provider of nodes knows the head by this id.
HEAD = "f" * 51 + "00000"
MAX_WORKERS = 3


def _launcher_config(gcs: str) -> dict[str, object]:
    lists = ("cluster_synced_files", "initialization_commands", "setup_commands", "head_setup_commands")
    lists += ("worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    return {
        "cluster_name": "pretended",
        "max_workers": MAX_WORKERS,
        "idle_timeout_minutes": 0.1,
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "gpu": {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": MAX_WORKERS},
        },
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "launch_multiple": True,
            "gcs_address": gcs,
            "head_node_id": HEAD,
            "disable_node_updaters": True,
        },
        "auth": {"ssh_user": "nobody"},
        "file_mounts": {},
        **{name: [] for name in lists},
    }


def processes(folder: str) -> list[psutil.Process]:
    """Every process of the Ray in a folder; other Rays of the machine are left alone."""
    found = []
    for process in psutil.process_iter():
        try:
            if folder in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@contextmanager
def growing_head() -> Iterator[tuple[str, dict[str, str]]]:
    """`ray start --head` with an autoscaler; yields its folder and the environment that reaches it."""
    # Unix socket paths are short: not below pytest's long temporary folder.
    folder = tempfile.mkdtemp(prefix="ray-")
    gcs = f"127.0.0.1:{free_port()}"
    launcher = Path(folder) / "launcher.json"
    launcher.write_text(json.dumps(_launcher_config(gcs)))
    environment = clean_environment() | {"RAY_AUTH_MODE": "disabled"}
    pretended = {
        "RAY_enable_autoscaler_v2": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    ports = ("dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port", "metrics-export-port")
    flags = [f"--{name}={free_port()}" for name in ports]
    flags += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--temp-dir={folder}"]
    flags += ["--num-cpus=0", "--num-gpus=0", f"--autoscaling-config={launcher}", f"--port={gcs.split(':')[1]}"]
    try:
        subprocess.run(
            [BIN / "ray", "start", "--head", "--disable-usage-stats", *flags],
            env=environment | pretended, check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        yield folder, environment | {"RAY_ADDRESS": gcs}
    finally:
        for process in processes(folder):
            process.send_signal(signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
