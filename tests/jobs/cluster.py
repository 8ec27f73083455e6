"""A Ray of a test's own, by clusters/local.sh: its own folder, ports and token, and gone afterwards."""

import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

BIN = Path(sys.executable).parent


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """This process's environment without a word on any Ray, and with the commands of its virtual environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "LDM_SCALE_"))}
    # But as in conftest.py: beside other tests, workers that are nice do not get on. A job that is stopped has three
    # seconds to say so, which is not enough there.
    kept |= {"RAY_worker_niceness": "0", "RAY_JOB_STOP_WAIT_TIME_S": "60", "RAY_USAGE_STATS_ENABLED": "0"}
    return kept | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def local(
    checkout: Path, *arguments: str | Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`clusters/local.sh ...` of a checkout, wherever this process stands."""
    return subprocess.run(
        [checkout / "clusters/local.sh", *arguments],
        env=environment or clean_environment(), capture_output=True, text=True, timeout=200,
    )  # fmt: skip


def exports(printed: str) -> dict[str, str]:
    """The variables that a shell has which evaluates these lines."""
    words = [shlex.split(line) for line in printed.splitlines()]
    assert all(len(line) == 2 and line[0] == "export" for line in words), printed
    return dict(line[1].split("=", 1) for line in words)


@contextmanager
def head(checkout: Path, configured: dict[str, str], *options: str) -> Iterator[dict[str, str]]:
    """A Ray of a checkout whose jobs have some variables set; yields the environment that reaches it."""
    # Unix socket paths are short: not below pytest's long temporary folder.
    folder = tempfile.mkdtemp(prefix="ray-")
    environment = clean_environment()
    try:
        up = local(checkout, "up", "--dir", folder, *options, environment=environment | configured)
        assert up.returncode == 0, up.stderr
        yield environment | exports(up.stdout)
    finally:
        local(checkout, "down", "--dir", folder)


def folder_of(environment: dict[str, str]) -> Path:
    """The folder of the Ray that an environment reaches."""
    return Path(environment["RAY_AUTH_TOKEN_PATH"]).parent


def ray_job(environment: dict[str, str], cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`ray job ...`"""
    return subprocess.run(
        [BIN / "ray", "job", *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip


def submit(environment: dict[str, str], cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit ...`, waiting for the job's end; its output holds the job's log."""
    return ray_job(environment, cwd, "submit", *arguments)


def ask(environment: dict[str, str], path: str, method: str = "GET") -> Any:
    """What Ray's server answers, which `ray job` asks too; that command takes seconds to start on a busy machine."""
    headers = {"Authorization": f"Bearer {Path(environment['RAY_AUTH_TOKEN_PATH']).read_text()}"}
    request = Request(f"{environment['RAY_API_SERVER_ADDRESS']}/api/{path}", headers=headers, method=method)
    with urlopen(request, timeout=100) as answer:
        return json.load(answer)
