"""Two runs for all tests of this room."""

from pathlib import Path

import pytest

from tests.inline import inline_ray
from tests.notebook.runs import write_run


@pytest.fixture(scope="package")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Run directories: one, and one over the same samples whose target leaks more. Not to be changed."""
    folder = tmp_path_factory.mktemp("notebook")
    with inline_ray():
        write_run(folder / "before")
        write_run(folder / "after", leak=0.7)
    return folder / "before", folder / "after"
