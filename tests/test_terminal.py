"""One way to the terminal, and nothing that goes around it."""

import ast
import logging
import warnings
from pathlib import Path

import pytest
from rich.table import Table

from ldm_scale.cli import main
from ldm_scale.errors import RunError, one_line
from ldm_scale.terminal import Parser, libraries_escaped, say, say_table

PACKAGE = Path(__file__).parents[1] / "ldm_scale"
# Clears the screen, sets the title, goes back, turns the direction of text around, ends the line, is half a character.
HOSTILE = "a\x1b[2J\x1b]0;owned\x07\x9b31m\r\x08\u202egpj\u200f\u2066\n\x85\u2028b\udc80"
STEERING = set(HOSTILE) - set("a[2J]0;owned31mgpjb")


def assert_tame(printed: str) -> None:
    assert "owned" in printed
    assert not STEERING & set(printed.replace("\n", ""))


def test_a_line_is_one_line_whoever_wrote_it(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    printed = capsys.readouterr().out
    assert_tame(printed)
    assert printed.count("\n") == 1
    assert r"a\x1b[2J\x1b]0;owned\x07\x9b31m\r\x08\u202egpj\u200f\u2066\n\x85\u2028b\udc80" in printed


def test_a_table_is_tame_and_reads_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("what", title=HOSTILE)
    table.add_row(HOSTILE)
    table.add_row("[red]plain[/red] :smile:")
    say_table(table, 120)
    printed = capsys.readouterr().out
    assert_tame(printed)
    assert "[red]plain[/red] :smile:" in printed


def test_what_libraries_log_and_warn_of_is_tame(caplog: pytest.LogCaptureFixture) -> None:
    with libraries_escaped():
        logging.getLogger("library").warning("a config says %s", HOSTILE)
        warned = warnings.formatwarning(HOSTILE, UserWarning, "library.py", 1)  # type: ignore[arg-type]
    assert_tame(caplog.text)
    assert_tame(warned)
    assert warned.count("\n") == 1


def test_usage_errors_are_tame(capsys: pytest.CaptureFixture[str]) -> None:
    """A shell may have taken an argument from the name of a file."""
    with pytest.raises(SystemExit):
        Parser(prog="p").parse_args([HOSTILE])
    assert_tame(capsys.readouterr().err)
    with pytest.raises(SystemExit):
        main([HOSTILE])
    assert_tame(capsys.readouterr().err)


def test_an_error_of_another_is_one_line_of_a_length_to_read() -> None:
    line = one_line(RunError(HOSTILE + "x" * 10_000_000))
    assert_tame(line.replace("...", "owned"))
    assert len(one_line(RunError("x" * 10_000_000))) < 1100


def test_what_is_quoted_does_not_fill_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("x" * 10_000_000)
    printed = capsys.readouterr().out
    assert len(printed) < 51_000
    assert printed.endswith("x ... and 9,950,000 more characters\n")


# Its standard output is a pipe to the command that started it, which prints what it reads by terminal.py.
ANSWERS = "targets/unpickle.py"


def test_nothing_else_prints() -> None:
    """No print, no console, no write to a standard stream but in terminal.py."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        if path in (PACKAGE / "terminal.py", PACKAGE / ANSWERS):
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in {"print", "Console", "os.write"} or called.endswith((".print", ".print_exc", ".print_help")):
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {called}")
            if called.startswith(("sys.stdout.", "sys.stderr.")) and not called.endswith((".isatty", ".fileno")):
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {called}")
            if isinstance(node, ast.Call) and called == "argparse.ArgumentParser":
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {called}")
    assert found == []
