"""The two ways a command ends badly: the user can fix it (exit status 2) or the run failed (exit status 1)."""

import difflib
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Self

from ldm_scale.terminal import printable

# Characters of another's message that are shown: a server may answer with a book.
LONGEST = 1000
# What content of another shape than is expected raises as it is taken apart.
MISSHAPEN = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
# What ends most of the errors of a run.
GOES_ON = "the same command again goes on where this one stopped"
# Groups of entry points, by which other packages add to ours.
GROUPS = tuple(f"ldm_scale.{name}" for name in ("attacks", "estimators", "families", "sources"))


def one_line(error: BaseException) -> str:
    """The first line of an error's message, printable and not too long, or the error's class if it has none.

    >>> one_line(ValueError("bad\\nworse")), one_line(ValueError())
    ('bad', 'ValueError')
    """
    line = printable((str(error).strip() or type(error).__name__).splitlines()[0])
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."


class UsageError(Exception):
    """A wrong path, name, flag or file; the message names it and what to change."""

    exit_status = 2


@contextmanager
def shaped(message: str) -> Iterator[None]:
    """Raise UsageError with this message if what a block takes apart has another shape than it expects."""
    try:
        yield
    except MISSHAPEN:
        raise UsageError(message) from None


class ExistsError(UsageError):
    """A file that was to be written exists already; nothing is ever overwritten."""


class RunError(Exception):
    """A run that started and could not be finished; the message names what is missing."""

    exit_status = 1


class ContentError(RunError):
    """A file that is broken, or whose content is not what a file of this name holds."""


class UnforeseenError(RunError):
    """An error that no check foresaw: its message says where it came up, and its traceback is worth keeping."""

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """The one that tells of another error, in one line."""
        return cls(f"{type(error).__name__} in {_place(error)}: {one_line(error)}")


def _place(error: BaseException) -> str:
    """Where an error arose: the innermost function of ours or of a package that adds to it, and the file at hand."""
    place, file = "a library", None
    # Of ours, and of packages that add to it by entry points.
    points = [point for group in GROUPS for point in entry_points(group=group)]
    packages = {
        point.module.partition(".")[0]: f" of {dist.name} {dist.version}" for point in points if (dist := point.dist)
    }
    packages["ldm_scale"] = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__"))
        if (package := packages.get(module.partition(".")[0])) is not None:
            place = f"{module}.{frame.f_code.co_name}{package}"
            # What was set last is most likely at fault.
            values = [getattr(value, "location", value) for value in reversed(frame.f_locals.values())]
            # A path, a location and a place inside a file all have this method, and a name in words.
            found = (value for value in values if hasattr(value, "read_bytes") and not isinstance(value, type))
            file = next(found, file)
    return place if file is None else f"{place} at {file}"


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UsageError:
    """The error for a name that is not among the known ones, with a did-you-mean if one is near.

    >>> print(unknown_name("attack", "simaa", ["loss", "sima"]))
    unknown attack 'simaa'; did you mean 'sima'?
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
    return UsageError(f"unknown {kind} {name!r}; {hint}")
