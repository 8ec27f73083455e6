"""One way to a Ray: the cluster this process runs in, the one RAY_ADDRESS names, or a local one of its own."""

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_system_temp_dir
from ray._private import auto_init_hook, ray_constants, services, worker
from ray.data import DataContext
from ray.exceptions import RayError

from ldm_scale.engine.blame import LostError, own_error
from ldm_scale.engine.watch import attended
from ldm_scale.errors import RunError, UnforeseenError, UsageError, one_line
from ldm_scale.files.space import MORE_ROOM, check_room
from ldm_scale.terminal import say

# The longest name that a socket may have, in bytes, and what Ray adds to the name of its folder.
LONGEST_SOCKET = 107
SOCKET = "/session_2000-12-31_23-59-59_999999_9999999/sockets/plasma_store_10"
# By which Ray is told how much its own processes log.
LEVEL = "RAY_BACKEND_LOG_LEVEL"
# Bytes and files without which a Ray does not start; it would wait for a minute and not say why.
LEAST_ROOM = 4 << 20, 200
# Seconds after which a cluster that does not answer is not there.
REACHED = 10


@contextmanager
def session(**resources: float) -> Iterator[None]:
    """A connected Ray for the length of a block; a Ray that was connected before is left connected.

    resources: what a local Ray pretends to have, such as num_gpus. What Ray raises in the block, and the loss of a part
    of it, comes out as the package's own error.
    """
    if ray.is_initialized():
        _quiet()
        with _own_errors():
            yield
        return
    with _private_folder() as folder:
        _connect({**resources, "_temp_dir": folder} if folder else resources)
        try:
            with _own_errors(), attended():
                yield
        finally:
            ray.shutdown()


@contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except RayError as error:
        raise own_error(error) from error


@contextmanager
def whole_pool(seconds: int) -> Iterator[None]:
    """Let no image through before all actors of a pool have started, for at most so long."""
    context = DataContext.get_current().copy()
    context.wait_for_min_actors_s = seconds
    with DataContext.current(context):
        yield


def check_local(what: str) -> None:
    """Raise UsageError if RAY_ADDRESS names another Ray than the one of its own that `what` needs."""
    if "RAY_ADDRESS" in os.environ:
        raise UsageError(f"RAY_ADDRESS is set: {what} a local Ray of its own; unset it")


@contextmanager
def _private_folder() -> Iterator[str | None]:
    """The folder of a local Ray, which nobody else can look into; removed at the end, if its logs are not wanted.

    It is given by a name that is short enough for the sockets in it, as SLURM's TMPDIR may not be.

    Raises:
        UsageError: None can be made.
        RunError: There is no room for one.
    """
    if "RAY_ADDRESS" in os.environ:
        yield None
        return
    place = get_default_system_temp_dir()
    with ExitStack() as stack:
        try:
            os.makedirs(place, exist_ok=True)
            size, files = LEAST_ROOM
            check_room(place, size, MORE_ROOM, files)
            folder = tempfile.mkdtemp(prefix="ray-", dir=place)
            # Ray lets all others into the folder that it is given, but not through the one above it.
            os.mkdir(f"{folder}/ray")
            name = f"{folder}/ray"
            if len(os.fsencode(name)) + len(SOCKET) > LONGEST_SOCKET:
                short = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp"))
                os.symlink(name, f"{short}/ray")
                name = f"{short}/ray"
        except OSError as error:
            longest = LONGEST_SOCKET - len(SOCKET) - len("/ray-xxxxxxxx/ray")
            raise UsageError(
                f"Ray can have no folder in {place} ({error}); set RAY_TMPDIR to a folder that can be written, with a "
                f"name of at most {longest} bytes"
            ) from error
        try:
            yield name
        except BaseException as error:
            foreseen = isinstance(error, (UsageError, RunError, KeyboardInterrupt))
            _clear(folder, logs=not foreseen or isinstance(error, (LostError, UnforeseenError)))
            raise
        _clear(folder)


def _clear(folder: str, logs: bool = False) -> None:
    """Remove the folder of a Ray that has ended, all but its logs if they are wanted."""
    kept = [path for path in Path(folder).glob("ray/session_*") if logs and not path.is_symlink()]
    for path in kept:
        shutil.move(path / "logs", f"{folder}/logs-{path.name}")
    if not kept:
        # The last of its processes may still be about to end.
        for _ in range(20):
            shutil.rmtree(folder, ignore_errors=True)
            if not os.path.exists(folder):
                return
            time.sleep(0.1)
    shutil.rmtree(f"{folder}/ray", ignore_errors=True)
    if kept:
        say(f"Ray's logs are kept in {folder}", sys.stderr)


def _keep_token() -> None:
    """Give a local Ray its token by the environment if there is no home that it could keep one in."""
    if any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return
    try:
        home = Path.home() / ".ray"
        home.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except (OSError, RuntimeError):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _check_address() -> None:
    """Raise UsageError if RAY_ADDRESS is that of the dashboard or of Ray Client, neither of which a driver joins."""
    if "://" in (address := os.environ.get("RAY_ADDRESS", "")):
        raise UsageError(
            f"RAY_ADDRESS={address}: a driver joins its cluster at HOST:6379; call the address that `ray job submit` "
            "submits to RAY_API_SERVER_ADDRESS, or unset this one for a local Ray"
        )


def _reach(address: str) -> None:
    """Raise OSError if nothing listens where a cluster's address leads: Ray would try for many minutes, in silence."""
    if found := services.canonicalize_bootstrap_address(address):
        socket.create_connection(services.extract_ip_port(found), timeout=REACHED).close()


def _connect(resources: dict[str, Any]) -> None:
    _check_address()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if "RAY_ADDRESS" in os.environ:
            _reach(os.environ["RAY_ADDRESS"] or "local")
            with _quiet_driver():
                ray.init(log_to_driver=False, configure_logging=False)
        else:
            # Ray says at length that it protects its ports with a token, which is what we want.
            logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
            _keep_token()
            with _on_loopback(), _quiet_driver():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    configure_logging=False,
                    _node_ip_address="127.0.0.1",
                    **resources,
                )
    except Exception as error:
        # Ray raises plain exceptions here.
        address = os.environ.get("RAY_ADDRESS")
        what = f"no Ray answers at RAY_ADDRESS={address}" if address else "a Ray of this job's own does not start"
        raise LostError(f"{what}: {one_line(error)}") from error
    # Ray's own ends the process without a word.
    if callable(handler) and signal.getsignal(signal.SIGTERM) is not handler:
        signal.signal(signal.SIGTERM, handler)
    _quiet()


@contextmanager
def _quiet_driver() -> Iterator[None]:
    """Let Ray's own part of this process say only what ends it: it calls an error what any pool of Ray Data does.

    The level is set as that part starts: a Ray's other processes, which start before it, keep theirs, and their logs.
    """
    connect = worker.connect

    def connect_quietly(*arguments: Any, **options: Any) -> None:
        if LEVEL in os.environ:
            connect(*arguments, **options)
            return
        os.environ[LEVEL] = "fatal"
        try:
            with _unheard():
                connect(*arguments, **options)
        finally:
            del os.environ[LEVEL]

    worker.connect = connect_quietly
    try:
        yield
    finally:
        worker.connect = connect


@contextmanager
def _unheard() -> Iterator[None]:
    """Pass over what is written to standard error meanwhile: that a level of logs was set. Exceptions are raised."""
    with open(os.devnull, "wb") as nowhere, os.fdopen(os.dup(2), "wb") as heard:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(heard.fileno(), 2)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let a Ray that starts here keep the address 127.0.0.1, which it else takes for the machine's own, open to all."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _quiet() -> None:
    """Our own progress lines instead of Ray Data's."""
    # A thread of Ray Data that outlives a Ray would start another one: open to all, with a folder that stays.
    auto_init_hook.enable_auto_connect = False
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []
    # Else the error of a task comes without its cause.
    context.raise_original_map_exception = True
    # What ends a job is said in a line of ours: not at length in tracebacks, nor in those of Ray's parts that died.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    worker.print_to_stdstream = _pass_over


def _pass_over(*_: object, **__: object) -> None:
    """Stands in for the printing of the news that Ray's parts send to each driver."""


def cluster_gpus() -> float:
    """How many GPUs the cluster has now."""
    return ray.cluster_resources().get("GPU", 0)
