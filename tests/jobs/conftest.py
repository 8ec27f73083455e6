"""What the job tests share: the repository's code as a cluster finds it."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="package")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's code, without what git ignores."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("ldm_scale", "jobs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy
