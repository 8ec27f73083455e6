"""A Ray cluster of a test's own: its own ports, folder and token, and gone afterwards."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _kill_all(folder: str) -> None:
    """Kill every process that was started in the cluster's folder; other Rays of the machine are left alone."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if folder.encode() in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
        except (OSError, ValueError):
            continue


@contextmanager
def head(cwd: Path, configured: dict[str, str]) -> Iterator[dict[str, str]]:
    """`ray start --head` in a folder with some variables set; yields the environment that reaches it."""
    # Unix socket paths are short: not below pytest's long temporary folder.
    folder = tempfile.mkdtemp(prefix="ray-")
    gcs, dashboard = free_port(), free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "LDM_SCALE_"))},
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    ports = {
        "port": gcs,
        "dashboard-port": dashboard,
        "ray-client-server-port": free_port(),
        "dashboard-agent-listen-port": free_port(),
        "metrics-export-port": free_port(),
    }
    flags = [f"--{name}={value}" for name, value in ports.items()]
    flags += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--temp-dir={folder}", "--num-cpus=2"]
    try:
        subprocess.run(
            [BIN / "ray", "start", "--head", "--disable-usage-stats", *flags],
            cwd=cwd, env=environment | configured, check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        _wait_for_jobs_api(environment)
        yield environment
    finally:
        _kill_all(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_jobs_api(environment: dict[str, str]) -> None:
    for _ in range(60):
        listing = subprocess.run([BIN / "ray", "job", "list"], env=environment, capture_output=True, timeout=60)
        if listing.returncode == 0:
            return
        time.sleep(1)
    raise TimeoutError(f"the jobs API does not answer: {listing.stderr.decode()[-500:]}")


def submit(environment: dict[str, str], cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit ...`, waiting for the job's end; its output holds the job's log."""
    return subprocess.run(
        [BIN / "ray", "job", "submit", *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
