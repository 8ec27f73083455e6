"""File systems that are full, in one line: which one, what is left of it, and what to do."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ldm_scale.errors import RunError

# What to do about a full file system that holds copies of what is read.
MORE_ROOM = "or set TMPDIR to a folder with more"
FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def room_at(path: str, remedy: str) -> Iterator[None]:
    """Raise RunError if something in a block does not fit where this path lies; `remedy`: what else to do about it."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise RunError(f"{path} cannot be written: {_what_is_left(path)}; free some space, {remedy}") from error


def check_room(path: str, size: int, remedy: str, files: int = 1) -> None:
    """Raise RunError if so many bytes, in so many files, do not fit where this path lies: before they fill it."""
    found = _status(path)
    if size > found.f_bavail * found.f_frsize or (found.f_files and files > found.f_favail):
        what = f"{size:,} bytes" if files == 1 else f"{size:,} bytes in {files:,} files"
        raise RunError(f"{path} has no room for {what}: {_what_is_left(path)}; free some space, {remedy}")


def _what_is_left(path: str) -> str:
    mount = os.path.realpath(path)
    while not os.path.ismount(mount):
        mount = os.path.dirname(mount)
    found = _status(path)
    left = f"the file system {mount} has {found.f_bavail * found.f_frsize:,} bytes"
    # Some file systems have no number of files.
    return f"{left} and {found.f_favail:,} files left" if found.f_files else f"{left} left"


def _status(path: str) -> os.statvfs_result:
    """Of the file system in which a path lies or would lie."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return os.statvfs(path)
