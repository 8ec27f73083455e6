"""A small Stable Diffusion for each test to spoil."""

import shutil
from pathlib import Path

import pytest

from tests.targets import tiny


@pytest.fixture(scope="package")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.stable_diffusion(tmp_path_factory.mktemp("made") / "target")


@pytest.fixture
def target(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "target"))
