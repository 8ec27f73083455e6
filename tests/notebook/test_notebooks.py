"""The notebooks in jobs/: every cell runs there, as Jupyter runs it, on a small run in place of the demo's."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from ldm_scale import Comparison

pytestmark = pytest.mark.xdist_group("notebook")
JOBS = Path(__file__).parents[2] / "jobs"


def cells(name: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads((JOBS / name).read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("name", ["read_a_run.ipynb", "score_images.ipynb"])
def test_every_cell_runs(
    name: str, made_up: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mpl.use("agg")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(made_up[0])
    (tmp_path / "jobs").mkdir()
    monkeypatch.chdir(tmp_path / "jobs")
    names: dict[str, Any] = {}
    for cell in cells(name):
        exec(compile("".join(cell["source"]), name, "exec"), names)
    match name:
        case "read_a_run.ipynb":
            assert {"plain", "lowest"} <= set(names["table"].row)
        case "score_images.ipynb":
            assert len(names["table"]) == 16 * 3
            assert isinstance(names["comparison"], Comparison)


@pytest.mark.parametrize("file", sorted(JOBS.glob("*.ipynb")), ids=lambda file: file.name)
def test_what_is_shown_is_what_ran(file: Path) -> None:
    """Outputs are kept, of cells that ran in their order, without an error."""
    found = cells(file.name)
    assert [cell["execution_count"] for cell in found] == [*range(1, len(found) + 1)]
    outputs = [output for cell in found for output in cell["outputs"]]
    assert len(outputs) >= len(found) - 1
    assert not [output for output in outputs if output["output_type"] == "error"]
