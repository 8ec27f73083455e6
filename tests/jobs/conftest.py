"""What the job tests share: the repository's code as a cluster finds it, and a Ray that runs in it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs.cluster import head

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="package")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's code, without what git ignores."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("ldm_scale", "jobs", "clusters"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="package")
def cluster(checkout: Path, tiny_shards: Path, tiny_target: Path) -> Iterator[dict[str, str]]:
    """A configured cluster: what a bare submit audits comes from its environment."""
    configured = {"LDM_SCALE_SHARDS": str(tiny_shards), "LDM_SCALE_TARGET": str(tiny_target)}
    with head(checkout, configured) as environment:
        yield environment
