"""The examples in docstrings: they run, they print what they say, and no room of formulas is without them."""

import doctest
import importlib
from pathlib import Path

import pytest

import ldm_scale

PACKAGE = Path(ldm_scale.__file__).parent


def count_examples() -> dict[str, int]:
    """Examples of each module that has any, by its name within the package."""
    counts = {path: path.read_text().count(">>> ") for path in sorted(PACKAGE.rglob("*.py"))}
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): count for path, count in counts.items() if count}


EXAMPLES = count_examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_print_what_they_say(name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"ldm_scale.{name}"))
    assert (results.failed, results.attempted) == (0, EXAMPLES[name])


@pytest.mark.parametrize("room", ["geometry", "attacks", "analysis", "device"])
def test_a_room_of_formulas_has_examples(room: str) -> None:
    assert len([name for name in EXAMPLES if name.startswith(f"{room}.")]) >= 2
