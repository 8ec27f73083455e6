"""One name, one thing: no name stands for two types of the package."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import ldm_scale

PACKAGE = Path(ldm_scale.__file__).parent


def types(path: Path) -> Iterator[str]:
    """The classes and the other names of types that a module makes."""
    for node in ast.parse(path.read_text()).body:
        match node:
            case ast.ClassDef(name=name) | ast.Assign(targets=[ast.Name(id=name)]):
                # CONSTANTS, T and _private names are a module's own.
                if name[0].isupper() and not name.isupper():
                    yield name


def test_no_name_stands_for_two_types() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        for name in types(path):
            homes[name].append(str(path.relative_to(PACKAGE)))
    assert len(homes) > 100
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}
