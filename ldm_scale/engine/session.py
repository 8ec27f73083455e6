"""One way to a Ray: the cluster this process runs in, the one RAY_ADDRESS names, or a local one of its own."""

import logging
import os
import secrets
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import ray_constants
from ray.data import DataContext
from ray.exceptions import RayError

from ldm_scale.errors import RunError, UnforeseenError, UsageError, one_line

# The longest name that a socket may have, in bytes, and what Ray adds to the name of its folder.
LONGEST_SOCKET = 107
SOCKET = "/session_2000-12-31_23-59-59_999999_9999999/sockets/plasma_store_10"


@contextmanager
def session(**resources: float) -> Iterator[None]:
    """A connected Ray for the length of a block; a Ray that was connected before is left connected.

    resources: what a local Ray pretends to have, such as num_gpus. What Ray raises in the block comes out as the
    package's own error.
    """
    if ray.is_initialized():
        with _own_errors():
            yield
        return
    with _short_folder() as folder:
        _connect({**resources, "_temp_dir": folder} if folder else resources)
        try:
            with _own_errors():
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
def _short_folder() -> Iterator[str | None]:
    """A short name of the folder of a local Ray if its own is too long for the sockets in it, as SLURM's TMPDIR may be.

    Raises:
        UsageError: None can be made.
    """
    folder = get_default_ray_temp_dir()
    if "RAY_ADDRESS" in os.environ or len(os.fsencode(folder)) + len(SOCKET) <= LONGEST_SOCKET:
        yield None
        return
    try:
        os.makedirs(folder, exist_ok=True)
        short = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp")
    except OSError as error:
        raise UsageError(
            f"{folder} is too long a name for Ray's sockets, and no shorter one can be made ({error}); set RAY_TMPDIR "
            f"to a folder of at most {LONGEST_SOCKET - len(SOCKET) - len('/ray')} bytes"
        ) from error
    with short:
        os.symlink(folder, f"{short.name}/ray")
        yield f"{short.name}/ray"


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


def _connect(resources: dict[str, Any]) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if "RAY_ADDRESS" in os.environ:
            # Of this process alone: Ray calls an error what any pool of Ray Data does.
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
            ray.init(log_to_driver=False, configure_logging=False)
        else:
            # Ray says at length that it protects its ports with a token, which is what we want.
            logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
            _keep_token()
            with _on_loopback():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    configure_logging=False,
                    _node_ip_address="127.0.0.1",
                    **resources,
                )
    except ConnectionError as error:
        address = os.environ.get("RAY_ADDRESS")
        raise RunError(f"no Ray answers at RAY_ADDRESS={address}: {one_line(error)}") from error
    # Ray's own ends the process without a word.
    if callable(handler) and signal.getsignal(signal.SIGTERM) is not handler:
        signal.signal(signal.SIGTERM, handler)
    _quiet()


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
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def cluster_gpus() -> float:
    """How many GPUs the cluster has now."""
    return ray.cluster_resources().get("GPU", 0)


def find_own_error(error: BaseException) -> UsageError | RunError | None:
    """The package's own error inside what Ray raised, if there is one."""
    cause: BaseException | None = error
    # What a task raises comes as both its own kind and Ray's, with a traceback as its message.
    while isinstance(cause, RayError) or not isinstance(cause, UsageError | RunError):
        if cause is None:
            return None
        cause = _inner(cause)
    return cause


def own_error(error: BaseException) -> UsageError | RunError:
    """The package's own error inside what Ray raised, or else an UnforeseenError of the innermost cause."""
    if own := find_own_error(error):
        return own
    cause = error
    while inner := _inner(cause):
        cause = inner
    lines = str(cause).strip().splitlines() or ["no message"]
    return UnforeseenError(f"{type(cause).__name__}: {lines[-1]}")


def _inner(error: BaseException) -> BaseException | None:
    inner = getattr(error, "cause", None) or error.__cause__
    return inner if isinstance(inner, BaseException) else None
