"""A local Ray of the package's own: who can reach it, and what it pretends to have."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray._private import auto_init_hook

from ldm_scale.engine import session as sessions
from ldm_scale.engine.blame import LostError
from ldm_scale.errors import RunError, UnforeseenError, UsageError
from tests.jobs.cluster import clean_environment

ROOT = Path(__file__).parents[2]
LOOK = """
import glob, json, os, psutil, ray
from ldm_scale.engine.session import session

with session(num_cpus=1, num_gpus=3):
    (folder,) = glob.glob(os.environ["TMPDIR"] + "/ray-*")
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    sockets = [socket for process in processes for socket in process.net_connections("inet")]
    names = ("RAY_AUTH_MODE", "RAY_BACKEND_LOG_LEVEL")
    mode, level = ray.get(ray.remote(num_gpus=1)(lambda: [os.environ.get(name) for name in names]).remote())
    # As the actors of Ray Data's pools are: Ray calls it an error.
    actor = ray.remote(num_cpus=0, max_restarts=1)(type("Kept", (), {"__init__": lambda self, kept: None}))
    actor.remote(ray.put(0))
    found = {
        "mode": mode,
        "level": level,
        "addresses": sorted({socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}),
        "gpus": ray.cluster_resources()["GPU"],
        "files": os.listdir(f"{folder}/ray"),
        "access": oct(os.stat(folder).st_mode & 0o777),
    }
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Look:
    """What a Ray of its own was seen to be, what it said as an error, and what it left in TMPDIR and in /tmp."""

    found: dict[str, Any]
    said: str
    left: list[Path]


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> Look:
    """Below a long TMPDIR and without a home."""
    long = tmp_path_factory.mktemp("scratch-of-a-job-" * 8)
    short = set(Path("/tmp").glob("ray-*"))
    environment = {**clean_environment(), "TMPDIR": str(long), "HOME": "/proc/nobody"}
    command = [sys.executable, "-c", LOOK]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    left = [*long.iterdir(), *(set(Path("/tmp").glob("ray-*")) - short)]
    return Look(json.loads(done.stdout.splitlines()[-1]), done.stderr, left)


@pytest.mark.xdist_group("ray")
def test_it_listens_on_loopback_alone_behind_a_token_and_has_the_gpus_it_is_told_of(look: Look) -> None:
    addresses = look.found["addresses"]
    assert addresses
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}
    assert look.found["mode"] == "token"
    assert look.found["gpus"] == 3


@pytest.mark.xdist_group("ray")
def test_it_says_nothing_of_its_own_and_its_other_processes_keep_their_logs(look: Look) -> None:
    assert (look.said, look.found["level"]) == ("", None)


@pytest.mark.xdist_group("ray")
def test_it_starts_below_a_long_tmpdir_and_without_a_home_and_leaves_nothing(look: Look) -> None:
    assert any(name.startswith("session_") for name in look.found["files"])
    # Nobody else looks into it, and nothing of it stays.
    assert look.found["access"] == "0o700"
    assert look.left == []


def test_a_long_tmpdir_without_a_short_place_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("x" * 100)))

    def fail(**_: object) -> None:
        raise PermissionError(13, "Permission denied", "/tmp/ray-x")

    monkeypatch.setattr("tempfile.TemporaryDirectory", fail)
    with pytest.raises(UsageError, match=r"set RAY_TMPDIR .* name of at most 23 bytes"), sessions._private_folder():
        pass


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "ray://127.0.0.1:10001"])
def test_the_addresses_of_the_dashboard_and_of_ray_client_are_no_clusters(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """ray #35010: a shell in which jobs are submitted has the dashboard's."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UsageError, match=rf"RAY_ADDRESS={address}: .* HOST:6379; .* RAY_API_SERVER_ADDRESS") as caught:
        sessions._connect({})
    assert "\n" not in str(caught.value)


def test_a_cluster_that_is_gone_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself tries for more than ten minutes and says nothing."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked"))
    with pytest.raises(LostError, match=rf"^no Ray answers at RAY_ADDRESS={address}: .*refused"):
        sessions._connect({})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    return tmp_path


def test_a_short_tmpdir_holds_the_folder_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setenv("RAY_TMPDIR", short)
        with sessions._private_folder() as folder:
            assert folder is not None
            assert folder.startswith(f"{short}/ray-")
        assert os.listdir(short) == []


def test_no_ray_is_started_where_it_has_no_room(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for a minute, and not say for what."""
    full = SimpleNamespace(f_bavail=100, f_frsize=4096, f_favail=1000, f_files=1000)
    no_files = SimpleNamespace(f_bavail=10**6, f_frsize=4096, f_favail=9, f_files=1000)
    for status in (full, no_files):
        monkeypatch.setattr(os, "statvfs", lambda path, status=status: status)
        with pytest.raises(RunError, match=f"^{place} has no room for .* TMPDIR"), sessions._private_folder():
            pass
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (None, False),
        (UsageError("theirs"), False),
        (RunError("known"), False),
        (KeyboardInterrupt(), False),
        (LostError("a node"), True),
        (UnforeseenError("ours"), True),
        (ZeroDivisionError(), True),
    ],
)
def test_the_logs_stay_only_if_they_can_tell_more(
    place: Path, error: BaseException | None, kept: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as stack:
        if error is not None:
            stack.enter_context(pytest.raises(type(error)))
        folder = stack.enter_context(sessions._private_folder())
        session = Path(str(folder)) / "session_1"
        for name in ("logs", "sockets", "ray_spilled_objects"):
            (session / name).mkdir(parents=True)
            (session / name / "file").write_text(name)
        (session.parent / "session_latest").symlink_to(session)
        if error is not None:
            raise error
    left = [path.relative_to(place) for path in place.rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["file"] * kept
    assert ["logs-session_1" in str(path) for path in left] == [True] * kept
    if kept:
        (top,) = place.iterdir()
        assert capsys.readouterr().err == f"Ray's logs are kept in {top}\n"


def test_what_outlives_a_ray_starts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of Ray Data may ask for something when its Ray has ended, after an error."""
    monkeypatch.setattr(auto_init_hook, "enable_auto_connect", True)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda: pytest.fail("another Ray"))
    sessions._quiet()
    auto_init_hook.auto_init_ray()


LOST = """
import sys, threading, psutil, ray
from ldm_scale import cli
from ldm_scale.engine.session import session

def work(config):
    with session(num_cpus=1):
        for process in psutil.Process().children(recursive=True):
            if process.name() == sys.argv[1]:
                process.kill()
        ray.get(ray.remote(lambda: threading.Event().wait()).remote())

cli._validate = work
sys.exit(cli.main(["validate"]))
"""


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize(("part", "told"), [("gcs_server", "the head of the Ray cluster"), ("raylet", "the raylet of")])
def test_a_part_of_ray_that_is_lost_is_one_line(part: str, told: str, tmp_path: Path) -> None:
    environment = {**clean_environment(), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", LOST, part]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    line = done.stderr.splitlines()[-1]
    # Ray's logs are kept if the main thread could be told.
    assert len(done.stderr.splitlines()) <= 2
    assert line.startswith(f"ldm-scale: error: {told}")
    assert line.endswith("the same command again goes on where this one stopped")
