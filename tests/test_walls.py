"""The walls between the rooms: what a module loads in the end, and that no import runs back up."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import ldm_scale

PACKAGE = Path(ldm_scale.__file__).parent
# The rooms, from the command down to what needs nothing; a room may use its own floor and those below it.
FLOORS = (
    ("cli", "flags", "ldm_scale"),
    ("benchmarks", "notebook"),
    ("engine",),
    ("costs", "inputs"),
    ("auditor", "report", "training"),
    ("targets", "data"),
    ("geometry", "attacks", "analysis", "files"),
    ("device", "config"),
    ("randomness", "schema", "errors"),
    ("terminal",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def name_of(path: Path) -> str:
    """The module in a file of the package."""
    return ".".join(("ldm_scale", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def room_of(module: str) -> str:
    """The room a module of ours lies in; the package itself is the top of the house."""
    return module.split(".")[1] if "." in module else module


def statements(tree: ast.AST, inside: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports of a module; `inside` its functions, too. What is only imported for type checkers is left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from statements(ast.Module(node.orelse, []), inside)
        elif inside or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from statements(node, inside)


@functools.cache
def imports(path: Path, inside: bool) -> frozenset[str]:
    """Every module that a file imports."""
    found: set[str] = set()
    for node in statements(ast.parse(path.read_text()), inside):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(name for name in found if not name.startswith("ldm_scale.") or name in MODULES)


def closure(roots: Iterable[str], inside: bool) -> set[str]:
    """Everything that our modules load in the end when these are imported: ours, and what ours import of others.

    inside: or that their functions may load when they are called.
    """
    seen: set[str] = set()
    waiting = [*roots]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            if module in MODULES:
                # The packages it lies in run before it.
                waiting += [*imports(MODULES[module], inside), module.rpartition(".")[0] or module]
    return seen


def reached(roots: Iterable[str], forbidden: Iterable[str], inside: bool = False) -> list[str]:
    """The forbidden modules in a closure, or modules of theirs."""
    return sorted(name for name in closure(roots, inside) if any(f"{name}.".startswith(f"{bad}.") for bad in forbidden))


def modules_of(*rooms: str) -> list[str]:
    found = [name for name in MODULES if room_of(name) in rooms]
    assert len(found) >= len(rooms)
    return found


def loaded(program: str, *names: str) -> set[str]:
    """Those of the named modules that a fresh process has loaded after a program."""
    code = f"import sys\n{program}\nprint('loaded', *[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_the_root_has_few_modules_and_every_room_has_a_floor() -> None:
    assert len([path for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]) <= 8
    assert {room_of(name) for name in MODULES} == FLOOR.keys()


def test_no_import_runs_back_up() -> None:
    found = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        for other in imports(path, True)
        # The package itself stands for every room, by its lazy names.
        if f"{other}.".startswith("ldm_scale.") and FLOOR[room_of(other)] < FLOOR[room_of(name)]
    ]
    assert found == []


def test_only_the_engine_imports_ray() -> None:
    below = modules_of(*(room for rooms in FLOORS[3:] for room in rooms))
    assert reached(below, {"ray", "ldm_scale.engine", "ldm_scale.benchmarks"}) == []
    outside = [path for name, path in MODULES.items() if room_of(name) != "engine"]
    assert [path for path in outside for name in imports(path, True) if f"{name}.".startswith("ray.")] == []


def test_nothing_is_imported_by_its_name() -> None:
    """The walls see no such import. The package's first module has its lazy names, which other tests look at."""
    by_name = {"importlib", "importlib.import_module", "pkgutil", "runpy"}
    found = {name for name, path in MODULES.items() if by_name & imports(path, True)}
    assert found | {name for name, path in MODULES.items() if "__import__" in path.read_text()} == {"ldm_scale"}


@pytest.mark.parametrize(
    ("rooms", "forbidden"),
    [
        (
            ("geometry", "attacks"),
            "ray diffusers transformers sklearn pyarrow boto3 os pathlib io tarfile tempfile shutil ldm_scale.files "
            "ldm_scale.analysis",
        ),
        (("analysis",), "torch diffusers ray boto3 ldm_scale.files"),
        (("config",), "torch numpy boto3 pyarrow ldm_scale.files"),
        (("device",), "ray diffusers transformers pyarrow boto3 ldm_scale.files"),
        (("auditor",), "ray diffusers pyarrow.fs boto3 sklearn matplotlib ldm_scale.files ldm_scale.data"),
        (("targets", "training"), "ray sklearn matplotlib jinja2 ldm_scale.data"),
        (("data",), "torch ray sklearn"),
        (("files",), "torch ray"),
        (("costs", "inputs"), "ray matplotlib"),
        (("report",), "torch ray sklearn"),
    ],
)
def test_a_room_reaches_nothing_it_has_no_use_for(rooms: tuple[str, ...], forbidden: str) -> None:
    modules, others = modules_of(*rooms), forbidden.split()
    assert reached(modules, others, inside=True) == []
    if "torch" in others:
        # What others load in turn is seen in a process alone: webdataset, say, loads torch.
        assert loaded(f"import {', '.join(modules)}", *others) == set()


@pytest.mark.parametrize("worker", ["actor", "train_worker"])
def test_a_worker_loads_nothing_that_only_the_driver_needs(worker: str) -> None:
    rooms = ("analysis", "report", "costs", "inputs", "data.pack", "data.sources", "engine.audit", "engine.train")
    drivers = {"sklearn", "matplotlib", "jinja2", "rich", *(f"ldm_scale.{room}" for room in rooms)}
    assert reached([f"ldm_scale.engine.{worker}"], drivers) == []


def test_an_auditors_libraries_load_nothing_that_only_the_driver_needs() -> None:
    # torch itself loads jinja2.
    forbidden = ("sklearn", "matplotlib", "rich", "ray.data", "ray.train")
    assert loaded("import ldm_scale.engine.actor, ldm_scale.targets.weights", *forbidden) == set()


def test_a_simulated_auditor_loads_no_library_of_models() -> None:
    assert reached(["ldm_scale.benchmarks.simulated"], {"diffusers", "transformers", "peft"}) == []


def test_a_training_is_handed_on_without_torch() -> None:
    assert reached(["ldm_scale.engine.train_job"], {"torch", "diffusers", "ray"}) == []


def test_a_batch_is_audited_without_ray_or_s3() -> None:
    """What the tests of tests/gpu and the benchmark of a device load, on a machine that has neither."""
    roots = ["ldm_scale.auditor", "ldm_scale.targets.load", "ldm_scale.costs.estimate", "ldm_scale.benchmarks.sd"]
    assert reached(roots, {"ray", "boto3", "botocore", "ldm_scale.engine", "ldm_scale.files", "ldm_scale.data"}) == []


def test_a_reader_and_a_writer_load_no_torch() -> None:
    roots, forbidden = ["ldm_scale.engine.reading", "ldm_scale.engine.commit"], ["torch", "webdataset", "sklearn"]
    assert reached(roots, forbidden) == []
    assert loaded(f"import {', '.join(roots)}", *forbidden) == set()


@pytest.mark.parametrize("line", ["--help", "pack --help", "train --help", "benchmark audit --help", "reduce --help"])
def test_help_loads_nothing_that_computes_or_stores(line: str) -> None:
    program = f"from ldm_scale.cli import main\ntry: main({line.split()})\nexcept SystemExit: pass"
    assert loaded(program, "torch", "ray", "boto3", "botocore", "pyarrow", "numpy") == set()


def test_the_command_itself_loads_nothing_that_computes_or_stores() -> None:
    forbidden = "torch ray boto3 pyarrow numpy ldm_scale.files ldm_scale.engine"
    assert reached(["ldm_scale.cli"], forbidden.split()) == []


def test_a_dry_run_loads_no_ray() -> None:
    # It ends where it looks for the shards: everything is imported by then.
    words = ["audit", "--dry-run", "--out", "o", "--shards", "none", "--target", "none"]
    program = f"from ldm_scale.cli import main\nassert main({words}) == 2"
    assert loaded(program, "ray", "torch") == {"torch"}


def test_a_notebook_loads_no_ray() -> None:
    assert reached(modules_of("notebook"), {"ray"}, inside=True) == []


def test_a_run_is_read_and_compared_without_torch() -> None:
    roots = ["ldm_scale.notebook.run", "ldm_scale.notebook.compare", "ldm_scale.report.comparison"]
    assert loaded(f"import {', '.join(roots)}", "torch", "ray", "diffusers") == set()


@pytest.mark.parametrize(
    ("words", "needed"),
    [("--attacks simma", set()), ("--compute.device tpu", set()), ("--shards none --target none", {"torch"})],
)
def test_what_is_refused_waits_for_nothing_that_it_does_not_need(words: str, needed: set[str]) -> None:
    program = f"from ldm_scale.cli import main\nassert main(['audit', '--out', 'o', *{words.split()}]) == 2"
    assert loaded(program, "torch", "ray", "diffusers", "sklearn") == needed


def test_what_the_package_offers_is_there() -> None:
    for name, home in ldm_scale._HOMES.items():
        assert re.search(rf"^(class|def) {name}\b", MODULES[home].read_text(), re.MULTILINE), name
    assert ldm_scale.PackConfig(dataset="folder", source="s", out="o").seed == 0


def test_an_import_inside_a_function_is_seen_but_loads_nothing(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    lines = (
        "from typing import TYPE_CHECKING",
        "if TYPE_CHECKING:",
        "    import torch",
        "else:",
        "    import io",
        "if not TYPE_CHECKING:",
        "    import os",
        "def f(): import ray",
    )
    path.write_text("\n".join(lines))
    assert imports(path, False) == {"typing", "typing.TYPE_CHECKING", "io", "os"}
    assert imports(path, True) - imports(path, False) == {"ray"}
