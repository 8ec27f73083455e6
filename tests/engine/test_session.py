"""A local Ray of the package's own: who can reach it, and what it pretends to have."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.cluster import clean_environment

ROOT = Path(__file__).parents[2]
LOOK = """
import json, os, psutil, ray
from ldm_scale.engine.session import session

with session(num_cpus=1, num_gpus=3):
    mode = ray.get(ray.remote(num_gpus=1)(lambda: os.environ.get("RAY_AUTH_MODE")).remote())
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    sockets = [socket for process in processes for socket in process.net_connections("inet")]
    addresses = sorted({socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN})
    print(json.dumps([addresses, mode, ray.cluster_resources()["GPU"]]))
"""


@pytest.mark.xdist_group("ray")
def test_it_listens_on_loopback_alone_behind_a_token_and_has_the_gpus_it_is_told_of() -> None:
    command = [sys.executable, "-c", LOOK]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    addresses, mode, gpus = json.loads(done.stdout.splitlines()[-1])
    assert addresses
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}
    assert mode == "token"
    assert gpus == 3
