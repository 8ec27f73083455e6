"""The one way to the terminal: lines that nothing in them can steer, whoever wrote it."""

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, TextIO

# Help and completion need no tables.
if TYPE_CHECKING:
    from rich.table import Table

# Characters of a line that are shown: what is quoted in it may be a file of any length. Lines of completion scripts,
# the longest of all others, have 2,000.
LONGEST_LINE = 50_000


def printable(text: str) -> str:
    r"""The text with every character that could steer a terminal, or stand for another, written as an escape.

    Keys, captions and names of files come from whoever made the shards, names of hosts from whoever ran a job.

    >>> print(printable("a\x1b[31mb"))
    a\x1b[31mb
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(line: str, stream: TextIO | None = None) -> None:
    """Print one line, or its beginning, on standard output or another stream, at once, even if that is a pipe."""
    rest = f" ... and {len(line) - LONGEST_LINE:,} more characters" if len(line) > LONGEST_LINE else ""
    print(f"{printable(line[:LONGEST_LINE])}{rest}", file=stream or sys.stdout, flush=True)


def say_table(table: "Table", width: int) -> None:
    """Print a table on standard output in plain text, at most so many columns wide."""
    from rich.console import Console

    console = Console(width=width, color_system=None, markup=False, highlight=False, emoji=False)
    with console.capture() as text:
        console.print(table)
    for line in text.get().splitlines():
        say(line)


class Parser(argparse.ArgumentParser):
    """A parser whose errors, which name arguments, cannot steer either: a shell may take them from names of files."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


class _Record(logging.LogRecord):
    def getMessage(self) -> str:
        return printable(super().getMessage())


@contextmanager
def libraries_escaped() -> Iterator[None]:
    """Let what libraries log and warn of in the block, which may quote files, come out like all else."""
    factory, formatted = logging.getLogRecordFactory(), warnings.formatwarning
    logging.setLogRecordFactory(_Record)
    warnings.formatwarning = lambda *said: printable(formatted(*said).rstrip()) + "\n"
    try:
        yield
    finally:
        logging.setLogRecordFactory(factory)
        warnings.formatwarning = formatted
