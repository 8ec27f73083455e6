"""The Dockerfile and its lock file: linted, pinned to what pyproject.toml asks for, and its RUN lines run."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from io import BytesIO
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.clusters.pins import CONSTRAINTS, LOCK, constrained, locked

REPOSITORY = Path(__file__).parents[2]
DOCKERFILE = REPOSITORY / "clusters" / "Dockerfile"
STEPS = [
    (step["instruction"], step["value"])
    for step in DockerfileParser(fileobj=BytesIO(DOCKERFILE.read_bytes())).structure
    if step["instruction"] != "COMMENT"
]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [Requirement(line) for line in PROJECT["dependencies"]]
TORCH = f"torch=={constrained('3.11')['torch']}"


def values(instruction: str) -> list[str]:
    return [value for name, value in STEPS if name == instruction]


def copies() -> list[tuple[list[str], str]]:
    """Sources and destination of each COPY."""
    words = [[word for word in value.split() if not word.startswith("--")] for value in values("COPY")]
    return [(sources, destination) for *sources, destination in words]


def test_the_dockerfile_is_linted() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    linted = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_base_image_has_the_ray_and_the_python_of_the_lock() -> None:
    made_for = re.search(r"--python-version (3)\.(\d+) ", (REPOSITORY / "Makefile").read_text(encoding="utf-8"))
    assert values("FROM") == [f"rayproject/ray:{locked()['ray'].version}-py{''.join(made_for.groups())}-gpu"]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_make_installs_an_exact_version_of_all_that_is_needed(python: str) -> None:
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    pinned = constrained(python)
    for requirement in [*REQUIREMENTS, *map(Requirement, PROJECT["optional-dependencies"]["test"])]:
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_the_image_has_the_versions_that_are_tested() -> None:
    assert constrained("3.11").items() >= {name: pin.version for name, pin in locked().items()}.items()


@pytest.mark.parametrize("requirement", [it for it in REQUIREMENTS if it.name != "torch"], ids=lambda it: it.name)
def test_the_lock_has_what_the_package_needs(requirement: Requirement) -> None:
    assert requirement.specifier.contains(locked()[canonicalize_name(requirement.name)].version)


def test_the_lock_has_hashes_and_no_addresses() -> None:
    assert len(locked()) > len(REQUIREMENTS)
    assert "://" not in LOCK.read_text(encoding="utf-8") + CONSTRAINTS.read_text(encoding="utf-8")


def test_torch_is_left_to_the_dockerfile_and_its_driver() -> None:
    assert not [name for name in locked() if name.startswith(("torch", "triton", "nvidia-", "cuda-"))]
    assert f"pip install --no-cache-dir {TORCH}" in values("RUN")


def test_dependencies_come_before_sources_and_are_checked_by_hash() -> None:
    install = "pip install --no-cache-dir --no-deps --require-hashes --requirement requirements.lock"
    order = [("COPY", "clusters/requirements.lock ."), ("RUN", install), ("RUN", f"pip install --no-cache-dir {TORCH}")]
    first = STEPS.index(order[0])
    assert [step for step in STEPS[first:] if step[0] != "ARG"][:3] == order
    assert not [value for name, value in STEPS[:first] if name == "COPY"]


def test_every_step_is_of_the_user_of_the_manifests() -> None:
    assert STEPS[1] == ("USER", "1000:100")
    assert values("USER") == ["1000:100"]
    assert not re.search(r"\bsudo\b", " ".join(values("RUN")))


def test_the_builder_is_sent_what_is_copied_and_nothing_else() -> None:
    lines = [line for line in (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").split("\n") if line]
    rules = [line for line in lines if not line.startswith("#")]
    copied = {source for sources, _ in copies() for source in sources}
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
    assert all((REPOSITORY / source).exists() for source in copied)


def copy(sources: list[str], destination: str, workdir: Path) -> None:
    """As Docker's COPY: of a folder its contents, a file into a folder that is named with a slash or is there."""
    target = workdir / destination
    for source in (REPOSITORY / source for source in sources):
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            if destination.endswith("/"):
                target.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the lock is for Python 3.11")
def test_the_steps_make_a_working_installation(tmp_path: Path) -> None:
    """Runs every step in a clean virtual environment, in place of the base image: no Docker here, and no GPU.

    Everything is downloaded. Where an index or folder of pip offers a CPU build of the pinned torch, that one is taken.
    """
    venv.create(tmp_path / "venv", with_pip=True)
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment = {**inherited, "PATH": f"{tmp_path / 'venv' / 'bin'}:{os.environ['PATH']}"}
    workdir = tmp_path
    remaining = copies()

    def run(command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], cwd=workdir, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    for instruction, value in STEPS:
        match instruction:
            case "FROM" | "USER" | "ARG":
                pass
            case "WORKDIR":
                workdir = tmp_path / value.lstrip("/")
                workdir.mkdir(parents=True)
            case "COPY":
                copy(*remaining.pop(0), workdir)
            case "RUN":
                run(value)
            case _:
                pytest.fail(f"no such step is known here: {instruction}")

    # The lock is complete: pip finds all that the package asks for, extras of Ray included, and no two that disagree.
    assert run("pip check").strip() == "No broken requirements found."
    assert "Would install" not in run("pip install --dry-run --no-index ldm_scale")
    installed = dict(line.split("==") for line in run("pip freeze --all").split() if "==" in line)
    versions = {canonicalize_name(name): version for name, version in installed.items()}
    assert {name: versions[name] for name in locked()} == {name: pin.version for name, pin in locked().items()}
    assert run("python -c 'import ldm_scale; print(ldm_scale.__file__)'").startswith(str(tmp_path / "venv"))
