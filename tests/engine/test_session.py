"""A local Ray of the package's own: who can reach it, and what it pretends to have."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ldm_scale.engine import session as sessions
from ldm_scale.errors import UsageError
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


HOMELESS = """
import json, os, ray, tempfile
from ldm_scale.engine.session import session

with session(num_cpus=1):
    print(json.dumps([ray.get(ray.remote(lambda: 41 + 1).remote()), os.listdir(os.environ["TMPDIR"] + "/ray")]))
"""


@pytest.mark.xdist_group("ray")
def test_it_starts_below_a_long_tmpdir_and_without_a_home(tmp_path: Path) -> None:
    long = tmp_path / ("scratch-of-a-job-" * 8)
    long.mkdir()
    short = set(Path("/tmp").glob("ray-*"))
    environment = {**clean_environment(), "TMPDIR": str(long), "HOME": "/proc/nobody"}
    for name in ("RAY_TMPDIR", "RAY_AUTH_MODE"):
        environment.pop(name, None)
    command = [sys.executable, "-c", HOMELESS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer, files = json.loads(done.stdout.splitlines()[-1])
    assert answer == 42
    assert any(name.startswith("session_") for name in files)
    assert set(Path("/tmp").glob("ray-*")) <= short


def test_a_long_tmpdir_without_a_short_place_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("x" * 100)))

    def fail(**_: object) -> None:
        raise PermissionError(13, "Permission denied", "/tmp/ray-x")

    monkeypatch.setattr("tempfile.TemporaryDirectory", fail)
    with pytest.raises(UsageError, match="RAY_TMPDIR to a folder of at most 36 bytes"), sessions._short_folder():
        pass


def test_a_short_tmpdir_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    with sessions._short_folder() as folder:
        assert folder is None
