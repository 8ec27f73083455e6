"""The package's own error, wherever it sits in what Ray raised, and without Ray's advice."""

import errno
import pickle
from collections.abc import Callable

import pyarrow as pa
import pytest
import ray
from ray.exceptions import ActorDiedError, LocalRayletDiedError, NodeDiedError, OutOfDiskError, RayError, RayTaskError
from ray.train import TrainingFailedError

from ldm_scale.engine.blame import LostError, blamed, own_error
from ldm_scale.engine.session import session
from ldm_scale.errors import RunError, UnforeseenError, UsageError

ADVICE = "Failed to apply UDF transform after 1/1 attempts.\nTo change retry attempts, backoff, or which errors"
OWN = "s3://bucket/key cannot be read"


def in_task(error: Exception) -> RayTaskError:
    """As `ray.get` raises it."""
    return RayTaskError("f", "Traceback: long", error).as_instanceof_cause()


def advised(error: Exception) -> Exception:
    error.args = (f"{error.args[0]}\n{ADVICE}",)
    return error


def because(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def meanwhile(error: Exception, context: Exception) -> Exception:
    error.__context__ = context
    return error


class WorkerFailures(TrainingFailedError):
    def __init__(self, *errors: Exception) -> None:
        super().__init__("Training failed due to worker errors:\nlong")
        self.worker_failures = dict(enumerate(errors))


class ControllerFailure(TrainingFailedError):
    def __init__(self, error: Exception) -> None:
        super().__init__("Training failed due to controller error:\nlong")
        self.controller_failure = error


CHAINS: dict[str, Callable[[Exception], BaseException]] = {
    "itself": lambda own: own,
    "advised": advised,
    "task": in_task,
    "task in a task": lambda own: in_task(in_task(own)),
    "cause": lambda own: because(RayError("long"), own),
    "cause of a task": lambda own: because(in_task(ValueError("long")), because(OSError(1, "x"), in_task(own))),
    "context": lambda own: meanwhile(RayError("long"), own),
    "worker": lambda own: WorkerFailures(RayError("died"), in_task(own)),
    "controller": lambda own: ControllerFailure(in_task(own)),
    "group": lambda own: ExceptionGroup("several", [ValueError("long"), in_task(own)]),
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("kind", [RunError, UsageError])
def test_own_errors_are_found_wherever_they_sit(kind: type[Exception], chain: str) -> None:
    found = own_error(CHAINS[chain](advised(kind(OWN))))
    assert type(found) is kind
    assert str(found) == OWN


def test_a_chain_that_bites_its_tail_ends() -> None:
    first, second = RayError("first"), RayError("second")
    first.__cause__, second.__cause__ = second, first
    assert isinstance(own_error(first), UnforeseenError)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (LocalRayletDiedError(), "the raylet of this machine was lost"),
        (NodeDiedError("long\nlonger"), "a node of the Ray cluster was lost"),
        (ActorDiedError(), "a worker of the Ray cluster was lost"),
        (OutOfDiskError("long"), "the disk of a node is full"),
    ],
)
def test_what_is_lost_is_said_in_a_line_that_says_what_to_do(error: RayError, told: str) -> None:
    found = own_error(because(RayError("long"), error))
    assert isinstance(found, LostError)
    assert str(found).startswith(told)
    assert str(found).endswith("the same command again goes on where this one stopped")
    assert "\n" not in str(found)


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x"), RunError, "[Errno 28] No space left on device: '/x'"),
        (KeyError("schema"), UnforeseenError, "KeyError in"),
        (UsageError("theirs"), UsageError, "theirs"),
    ],
)
def test_an_error_becomes_the_package_own_where_it_arises(error: Exception, kind: type[Exception], told: str) -> None:
    with pytest.raises(kind, match=r".") as caught, blamed():
        raise error
    assert type(caught.value) is kind
    assert str(caught.value).startswith(told)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def _fail(table: pa.Table) -> pa.Table:
    with blamed():
        raise {"own": RunError(OWN), "disk": OSError(errno.ENOSPC, "full", "/x"), "foreign": KeyError("schema")}[
            table["kind"][0].as_py()
        ]


def failure(function: Callable[[pa.Table], object], kind: str) -> Exception:
    rows = ray.data.from_items([{"kind": kind}]).map_batches(function, batch_format="pyarrow")
    with pytest.raises(RayError) as caught:
        list(rows.iter_batches(batch_size=None, batch_format="pyarrow"))
    return caught.value


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("kind", "told"), [("own", OWN), ("disk", "[Errno 28] full: '/x'"), ("foreign", "KeyError in")]
)
def test_a_function_and_a_generator_of_ray_data_lose_nothing(
    kind: str, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def as_function(table: pa.Table) -> pa.Table:
        return _fail(table)

    def as_generator(table: pa.Table) -> object:
        yield _fail(table)

    for function in (as_function, as_generator):
        with session():
            found = own_error(failure(function, kind))
        assert isinstance(found, RunError)
        assert str(found).startswith(told)
        assert "\n" not in str(found)
    printed = capfd.readouterr()
    assert "retry attempts" not in printed.out + printed.err
    assert "Traceback" not in printed.out + printed.err
