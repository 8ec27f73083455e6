"""The one way to the terminal: lines that nothing in them can steer, whoever wrote it."""

import argparse
import difflib
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

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


@contextmanager
def answering(as_json: bool) -> Iterator[Callable[[Any], None]]:
    """Yields what takes a block's answer: printed as JSON if that is asked for, and then all else on standard error."""
    out = sys.stdout

    def answer(value: Any) -> None:
        if as_json:
            # Of characters below 128 alone, and without a limit: it is read by a program.
            print(json.dumps(value), file=out, flush=True)

    with redirect_stdout(sys.stderr if as_json else out):
        yield answer


class Parser(argparse.ArgumentParser):
    """A parser of options by their whole names, whose errors are one line that says which was meant.

    They name arguments, and cannot steer either: a shell may take these from names of files.
    """

    def __init__(self, **how: Any) -> None:
        # An option that is added later would make a short form that scripts use stand for two.
        super().__init__(**{"allow_abbrev": False, **how})

    def error(self, message: str) -> NoReturn:
        # Without the usage: an audit's has 60 lines.
        self.exit(2, f"{self.prog}: error: {printable(message)}\n")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse has it, but that nothing is left over: the parser of a command knows its options best."""
        parsed, left = super().parse_known_args(args, namespace)
        if left:
            self.error(self._stray(left[0].partition("=")[0]))
        return parsed, left

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        commands = action.choices if isinstance(action, argparse._SubParsersAction) else ()
        if value not in commands and (near := difflib.get_close_matches(value, commands, n=1)):
            self.error(f"unknown command {value!r}; did you mean {near[0]!r}?")
        super()._check_value(action, value)

    def _stray(self, word: str) -> str:
        if not word.startswith("-"):
            return f"unexpected argument {word!r}; values of an option follow its name ({self.prog} --help lists them)"
        near = difflib.get_close_matches(word, self._option_string_actions, n=1)
        return f"unknown option {word}; " + (f"did you mean {near[0]}?" if near else f"{self.prog} --help lists them")


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
