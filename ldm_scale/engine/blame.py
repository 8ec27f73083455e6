"""What goes wrong in a task, told as the package's own error there, and found again in what Ray makes of it."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import (
    ActorDiedError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayError,
    WorkerCrashedError,
)

from ldm_scale.errors import GOES_ON, RunError, UnforeseenError, UsageError, one_line

# What a part of Ray that is lost means, by what it raises.
LOST: dict[type[RayError], str] = {
    OutOfMemoryError: "a node ran out of memory and a worker on it was killed; give workers fewer samples at once, or "
    "nodes more memory",
    OutOfDiskError: "the disk of a node is full, where Ray keeps what does not fit into memory (the folder that "
    "RAY_TMPDIR or TMPDIR names); free some space there",
    ObjectStoreFullError: "the object store of a node is full; give nodes more memory",
    LocalRayletDiedError: "the raylet of this machine was lost",
    NodeDiedError: "a node of the Ray cluster was lost",
    ActorDiedError: "a worker of the Ray cluster was lost",
    WorkerCrashedError: "a worker of the Ray cluster crashed",
}


class LostError(RunError):
    """A part of Ray was lost, or did not start: its logs are worth keeping."""


@contextmanager
def blamed() -> Iterator[None]:
    """Raise what goes wrong in a block as the package's own error: only there it is known which file was at hand."""
    try:
        yield
    except (UsageError, RunError):
        raise
    except OSError as error:
        raise RunError(one_line(error)) from error
    except Exception as error:
        raise UnforeseenError.of(error) from error


def find_own_error(error: BaseException) -> UsageError | RunError | None:
    """The package's own error wherever it sits inside what Ray raised, if there is one."""
    for inner in _inside(error):
        # What a task raises comes as both its own kind and Ray's, with a traceback as its message.
        if isinstance(inner, UsageError | RunError) and not isinstance(inner, RayError):
            # Ray adds lines of advice.
            inner.args = tuple(str(inner).splitlines()[:1])
            return inner
    return None


def own_error(error: BaseException) -> UsageError | RunError:
    """The package's own error inside what Ray raised, or else one that says in a line what was lost or went wrong."""
    if own := find_own_error(error):
        return own
    chain = [*_inside(error)]
    for inner in chain:
        for kind, meaning in LOST.items():
            if isinstance(inner, kind):
                return LostError(f"{meaning}; {GOES_ON}")
    innermost = chain[-1]
    lines = str(innermost).strip().splitlines() or ["no message"]
    return UnforeseenError(f"{type(innermost).__name__}: {lines[-1]}")


def _inside(error: BaseException) -> Iterator[BaseException]:
    """An error and all that it was raised for, the nearest first."""
    waiting, seen = deque([error]), set[int]()
    while waiting:
        found = waiting.popleft()
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        inner = [getattr(found, "cause", None), found.__cause__, getattr(found, "controller_failure", None)]
        inner += getattr(found, "worker_failures", {}).values()
        inner += getattr(found, "exceptions", ())
        waiting += (one for one in (*inner, found.__context__) if isinstance(one, BaseException))
