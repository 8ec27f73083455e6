"""Which files Python opens during a block; what Rust opens (weights, vocabularies) is not heard of."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_listeners: list[list[Path]] = []


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _listeners and isinstance(arguments[0], str | Path):
        for heard in _listeners:
            heard.append(Path(arguments[0]))


# It cannot be removed again.
sys.addaudithook(_hear)


@contextmanager
def opened() -> Iterator[list[Path]]:
    """The paths that are opened in the block."""
    heard: list[Path] = []
    _listeners.append(heard)
    try:
        yield heard
    finally:
        _listeners.remove(heard)
