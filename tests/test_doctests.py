"""The examples in docstrings: they run, they print what they say, and no room of formulas is without one."""

import doctest
import importlib
from collections import Counter

import pytest

from tests.test_walls import MODULES, room_of

EXAMPLES = {name: path.read_text().count(">>> ") for name, path in MODULES.items()}


@pytest.mark.parametrize("name", [name for name, count in EXAMPLES.items() if count])
def test_examples_print_what_they_say(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert (results.failed, results.attempted) == (0, EXAMPLES[name])


@pytest.mark.parametrize("room", ["geometry", "attacks", "device"])
def test_a_room_of_formulas_has_examples(room: str) -> None:
    modules = Counter(room_of(name) for name, count in EXAMPLES.items() if count)
    assert modules[room] >= 2
