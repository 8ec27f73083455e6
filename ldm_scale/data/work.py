"""How independent pieces of work are run: one after the other here, or in parallel by whoever has a cluster."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class RunTasks(Protocol):
    """Applies a function to every task, with results in the order of tasks; `what` names them in progress lines."""

    def __call__(self, function: Callable[[T], R], tasks: Sequence[T], what: str) -> Iterator[R]: ...


def one_by_one(function: Callable[[T], R], tasks: Sequence[T], what: str) -> Iterator[R]:
    """Run in this process, without a word."""
    return map(function, tasks)
