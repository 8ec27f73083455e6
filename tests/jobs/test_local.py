"""clusters/local.sh: a Ray of one's own beside others, on loopback, behind a token, and gone without a trace."""

import ipaddress
import os
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.jobs.cluster import clean_environment, exports, folder_of, head, local, ray_job
from tests.jobs.conftest import ROOT


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def of_ray(folder: Path) -> list[psutil.Process]:
    """The processes of a Ray: those that name its folder or write there, and all below them."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = [*process.cmdline(), *(file.path for file in process.open_files())]
            if any(str(folder) in word for word in words):
                found += [process, *process.children(recursive=True)]
    return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def second(checkout: Path) -> Iterator[dict[str, str]]:
    with head(checkout, {}, "--fake-gpus", "3") as environment:
        yield environment


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["start"], "what is start?"),
        (["up", "--dir"], "--dir: which folder?"),
        (["up", "--dir", "/nowhere/ray"], "--dir /nowhere/ray: no folder to make it in"),
        (["up", "--dir", f"/tmp/{'long' * 20}"], "too long for Ray's sockets"),
        (["up", "--fake-gpus", "many"], "--fake-gpus: how many?"),
        (["down", "--fake-gpus", "1"], "--fake-gpus goes with up"),
        (["up", "down"], "one of up, down and status at a time"),
    ],
)
def test_a_wrong_command_has_status_two_and_says_why(arguments: list[str], message: str) -> None:
    done = local(ROOT, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_says_how() -> None:
    done = local(ROOT, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert 'eval "$(clusters/local.sh up)"' in done.stdout
    assert local(ROOT).returncode == 2


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    folder = Path("/tmp") / f"ray-mine-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / "mine").write_text("mine")
        refused = local(ROOT, "up", "--dir", folder)
        assert refused.returncode == 2
        assert f"--dir {folder} exists and is not empty" in refused.stderr
        for action in ("down", "status"):
            assert local(ROOT, action, "--dir", folder).returncode == 1
        assert (folder / "mine").read_text() == "mine"
    finally:
        (folder / "mine").unlink()
        folder.rmdir()


def test_a_file_that_another_put_there_is_not_evaluated(tmp_path: Path) -> None:
    """A link to a folder that looks like a Ray's, as a stranger may lay one out below /tmp."""
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange/local-ray.env").write_text(f"touch {tmp_path}/harm")
    (tmp_path / "link").symlink_to(tmp_path / "strange")
    for action, status in (("up", 2), ("status", 1), ("down", 1)):
        done = local(ROOT, action, "--dir", tmp_path / "link")
        assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert not (tmp_path / "harm").exists()
    assert (tmp_path / "strange/local-ray.env").exists()


def test_it_listens_on_loopback_alone(second: dict[str, str]) -> None:
    listening = [
        connection.laddr
        for process in of_ray(folder_of(second))
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    port = int(second["RAY_API_SERVER_ADDRESS"].rpartition(":")[2])
    assert port in {address.port for address in listening}
    assert len(listening) > 5
    addresses = [ipaddress.ip_address(address.ip) for address in listening]
    assert all((getattr(address, "ipv4_mapped", None) or address).is_loopback for address in addresses), listening


def test_who_has_no_token_is_refused(second: dict[str, str]) -> None:
    jobs = f"{second['RAY_API_SERVER_ADDRESS']}/api/jobs/"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(jobs, timeout=30)
    assert refused.value.code == 401
    token = Path(second["RAY_AUTH_TOKEN_PATH"])
    assert (mode(token), mode(token.parent)) == (0o600, 0o700)
    request = urllib.request.Request(jobs, headers={"Authorization": f"Bearer {token.read_text()}"})
    assert urllib.request.urlopen(request, timeout=30).status == 200


def test_up_again_says_the_same_and_status_says_what_is_there(second: dict[str, str], checkout: Path) -> None:
    folder = folder_of(second)
    before = of_ray(folder)
    again = local(checkout, "up", "--dir", folder)
    assert exports(again.stdout).items() <= second.items()
    assert f"a Ray runs in {folder} already" in again.stderr
    assert {process.pid for process in before} <= {process.pid for process in of_ray(folder)}
    until = time.monotonic() + 60
    while "not known yet" in (status := local(checkout, "status", "--dir", folder)).stdout:
        assert time.monotonic() < until, status.stdout
    assert status.returncode == 0, status.stderr
    assert second["RAY_API_SERVER_ADDRESS"] in status.stdout
    assert "0.0/3.0 GPU" in status.stdout


# A Ray of ray.init, which computes once more when it is asked.
ANOTHER = """
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
print("there", flush=True)
input()
print(ray.get(ray.remote(lambda: 1).remote()))
"""


@pytest.fixture
def another() -> Iterator["subprocess.Popen[str]"]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", ANOTHER], env=clean_environment(), text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        yield process
        process.kill()


def test_down_takes_all_of_its_own_and_nothing_of_others(
    second: dict[str, str], cluster: dict[str, str], another: "subprocess.Popen[str]", checkout: Path
) -> None:
    """Beside it run another Ray of local.sh and one of ray.init."""
    folder = folder_of(second)
    own, others = of_ray(folder), of_ray(folder_of(cluster))
    assert len(own) > 5
    assert len(others) > 5
    # As the help says, and the shell knows no more of it then.
    script = f'eval "$({checkout}/clusters/local.sh down --dir {folder})" && echo "${{RAY_AUTH_MODE-none}}"'
    down = subprocess.run(["bash", "-c", script], env=second, capture_output=True, text=True, timeout=100)
    assert (down.returncode, down.stdout) == (0, "none\n"), down.stderr
    assert not folder.exists()
    psutil.wait_procs(own, timeout=60)
    assert [process for process in own if process.is_running()] == []
    assert [process for process in others if not process.is_running()] == []
    listing = ray_job(cluster, checkout, "list")
    assert listing.returncode == 0, listing.stderr
    assert another.communicate("\n", timeout=100)[0] == "1\n"
    for action in ("down", "status"):
        nothing = local(checkout, action, "--dir", folder, environment=clean_environment())
        assert nothing.returncode == 1
        assert f"no Ray runs in {folder}" in nothing.stderr
