"""The READMEs: every link leads somewhere, every option is one, and every command block that needs no cloud runs.

A comment right before a block, which readers do not see, says how it is tested. None: it runs with every test run.
`slow`: it runs with the slow tests. `needs: ...`: its commands are parsed, as those of all blocks are, and not run.
"""

import argparse
import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

import ldm_scale
from ldm_scale.analysis import results
from ldm_scale.benchmarks.options import BenchmarkConfig
from ldm_scale.cli import make_parser
from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.base import Config, build
from ldm_scale.config.reproduce import ReproduceConfig
from ldm_scale.flags import add_flags
from tests.conftest import make_folder
from tests.markdown import Block, anchors, blocks, code, links

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FILES = [
    README,
    *sorted((ROOT / ".github").glob("*.md")),
    *sorted(file for room in ("clusters", "jobs", "ldm_scale", "tests") for file in (ROOT / room).rglob("README.md")),
]
BLOCKS = [block for file in FILES for block in blocks(file)]
MARKS = {"", "slow", "needs: cloud", "needs: gpu", "needs: data", "needs: network"}
# Options that the prose names and that are not ours.
OTHERS = {"--build-arg", "--dir", "--metrics-export-port", "--temp-dir", "--with", "--working-dir"}
# What begins a command, or the part of it, that is ours.
OURS = re.compile(r"(?:^|-- |bin/)ldm-scale |jobs/\w+\.py", re.MULTILINE)
LARGEST = 12 * 1024
# What a block may find in its folder, as in a clone.
CLONE = (".ci", "LICENSE", "Makefile", "README.md", "clusters", "jobs", "ldm_scale", "pyproject.toml")


def name_of(block: Block) -> str:
    return f"{block.file.relative_to(ROOT)}:{block.line}"


def of_language(language: str, *marks: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language and (not marks or block.mark in marks)]


def test_the_readme_is_read_in_ten_minutes() -> None:
    assert len(README.read_bytes()) <= LARGEST


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(file: Path) -> None:
    for link in links(file):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        page = target / "README.md" if target.is_dir() else target
        assert page.is_relative_to(ROOT), link
        assert page.is_file(), link
        assert not anchor or anchor in anchors(page), link


def test_every_page_is_reached_from_the_readme() -> None:
    reached, new = set(), {README}
    while new:
        reached |= new
        paths = {(file.parent / link.partition("#")[0]).resolve() for file in new for link in links(file)}
        new = {path for path in paths if path in FILES} - reached
    assert reached == set(FILES)


def test_no_block_is_left_out_by_a_mistyped_comment() -> None:
    assert {block.mark for block in BLOCKS} <= MARKS
    assert {block.language for block in BLOCKS} <= {"python", "sh", "text", "yaml"}


def parser_of(kind: type[Config]) -> argparse.ArgumentParser:
    """Of a job that is no command's."""
    parser = argparse.ArgumentParser()
    add_flags(parser, kind)
    return parser


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The options of a parser and of its commands."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from options(command)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_option_in_the_prose_is_one(file: Path) -> None:
    jobs = [parser_of(kind) for kind in (BenchmarkConfig, ReproduceConfig)]
    known = {option for parser in (make_parser(), *jobs) for option in options(parser)} | OTHERS
    named = {span.split()[0] for span in code(file) if span.startswith("--") and span != "--"}
    assert named <= known


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command of a block."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def parse(words: list[str]) -> bool:
    """Parse a command, or the part of it that is ours, as it would be; False if nothing of it is.

    Raises SystemExit if it would be refused.
    """
    for place, word in enumerate(words):
        path, given = Path(word), [other for other in words[place + 1 :] if other != "--"]
        match path.parts:
            case (*_, "ldm-scale") if place == 0 or words[place - 1] == "--":
                make_parser().parse_args(given)
            case (*_, "jobs", "pack.py" | "train.py"):
                make_parser().parse_args([path.stem, *given])
            case (*_, "jobs", "benchmark.py") if "--fake-gpus" in given:
                make_parser().parse_args(["benchmark", "scale", *given])
            case (*_, "jobs", "benchmark.py"):
                parser_of(BenchmarkConfig).parse_args(given)
            case (*_, "jobs", "reproduce.py"):
                parser_of(ReproduceConfig).parse_args(given)
            case (*_, "jobs", _):
                assert (ROOT / "jobs" / path.name).is_file()
                make_parser().parse_args(["audit", *given])
            case _:
                continue
        return True
    return False


@pytest.mark.parametrize("block", of_language("sh"), ids=name_of)
def test_every_command_has_options_that_there_are(block: Block) -> None:
    parsed = [parse(words) for words in commands(block)]
    assert sum(parsed) == len(OURS.findall(block.text))


def test_a_command_with_another_option_would_be_found() -> None:
    for command in ("ldm-scale audit --shrads x", "ray job submit -- python jobs/coco.py --shrads x"):
        with pytest.raises(SystemExit):
            parse(command.split())


@pytest.mark.parametrize("block", of_language("yaml"), ids=name_of)
def test_every_configuration_is_one(block: Block) -> None:
    build(AuditConfig, yaml.safe_load(block.text))


@pytest.mark.parametrize("block", of_language("python"), ids=name_of)
def test_every_python_example_uses_names_that_there_are(block: Block) -> None:
    models = [kind for kind in vars(results).values() if isinstance(kind, type) and issubclass(kind, BaseModel)]
    fields = {name for kind in models for name in kind.model_fields} | {*dir(ldm_scale.Run)}
    for node in ast.walk(ast.parse(block.text)):
        match node:
            case ast.ImportFrom(module="ldm_scale", names=names):
                assert all(hasattr(ldm_scale, alias.name) for alias in names)
            case ast.Attribute(attr=name):
                assert name in fields
            case ast.Call(func=ast.Name("AuditConfig"), keywords=keywords):
                assert {keyword.arg for keyword in keywords} <= AuditConfig.model_fields.keys()


@pytest.fixture
def clone(tmp_path: Path, tiny_shards: Path, tiny_target: Path) -> Path:
    """A folder like a clone in which `make` has installed, with small things at the places that the examples name."""
    folder = tmp_path / "clone"
    for name in ("data", "models", ".venv"):
        (folder / name).mkdir(parents=True)
    for name in CLONE:
        (folder / name).symlink_to(ROOT / name)
    for part in Path(sys.prefix).iterdir():
        if part.name != ".installed":
            (folder / ".venv" / part.name).symlink_to(part)
    (folder / ".venv/.installed").touch()
    (folder / "data/mine").symlink_to(tiny_shards)
    for name in ("mine", "base"):
        (folder / "models" / name).symlink_to(tiny_target)
    make_folder(folder / "pictures", 48, size=32)
    return folder


def run(program: list[str], folder: Path) -> None:
    """Run it as a user would, with a Ray of its own."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("LDM_SCALE_", "RAY_"))}
    environment = {**ours, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize("block", of_language("sh", ""), ids=name_of)
def test_the_commands_run(block: Block, clone: Path) -> None:
    run(["bash", "-euo", "pipefail", "-c", block.text], clone)


@pytest.mark.slow
@pytest.mark.parametrize("block", of_language("sh", "slow"), ids=name_of)
def test_the_longer_commands_run(block: Block, clone: Path) -> None:
    if "clusters/local.sh up" in block.text and Path(f"/tmp/ldm-scale-{os.getuid()}").exists():
        pytest.skip("a Ray of clusters/local.sh runs on this machine")
    run(["bash", "-euo", "pipefail", "-c", block.text], clone)


@pytest.mark.slow
@pytest.mark.parametrize("block", of_language("python", "", "slow"), ids=name_of)
def test_the_python_examples_run(block: Block, clone: Path) -> None:
    run([sys.executable, "-c", block.text], clone)
