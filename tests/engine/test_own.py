"""A data owner's question: plain folders in, a page out."""

import json
import shutil
from pathlib import Path

import pytest

from ldm_scale.analysis.results import Results
from ldm_scale.analysis.suspects import Suspects
from ldm_scale.cli import main
from ldm_scale.data.manifest import read_manifest
from ldm_scale.files.storage import Location
from tests.conftest import make_image
from tests.engine.runs import read_rows

pytestmark = pytest.mark.usefixtures("inline")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """24 suspects, and 24 others, one of which shows the picture of a suspect."""
    found = tmp_path / "mine", tmp_path / "elsewhere"
    for number, folder in enumerate(found):
        folder.mkdir()
        for image in range(24):
            make_image(100 * number + image, 32).save(folder / f"{image:03d}.png")
    shutil.copy(found[0] / "003.png", found[1] / "copied.png")
    return found


def own(target: Path, folders: tuple[Path, Path], out: Path, *flags: str) -> int:
    suspect, heldout = folders
    words = ["own", target, "--suspect", suspect, "--heldout", heldout, "--out", out, "--attacks", "sima", *flags]
    return main([*map(str, words), "--device", "cpu"])


def test_two_plain_folders_become_a_page(
    tiny_target: Path, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert own(tiny_target, folders, out) == 0
    assert (out / "run" / "report.html").is_file()
    assert "p = " in capsys.readouterr().out
    rows = read_rows(out / "run")
    keys = {
        row["sample_id"].partition("/")[2]: row["member"] for row in rows.select(["sample_id", "member"]).to_pylist()
    }
    # The suspect stays, and its copy among the others is left out.
    assert keys == {f"{side}/{n:03d}": side == "members" for side in ("members", "heldout") for n in range(24)}
    assert read_manifest(Location.of(out / "shards")).classes == ()
    results = Results.model_validate_json((out / "run" / "results.json").read_bytes())
    assert (results.members, results.heldout) == (24, 24)
    assert json.loads((out / "run" / "run.json").read_text())["config"]["conditioning"] == "none"
    # The same command again goes on: here nothing is left.
    assert own(tiny_target, folders, out) == 0


def test_what_is_missing_is_said(
    tiny_target: Path, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["own", str(tiny_target), "--suspect", str(folders[0]), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "heldout: give images of the same kind" in said
    assert "--reference MODEL" in said
    assert own(tiny_target, folders, tmp_path / "out", "--reference", str(tmp_path / "no base")) == 2
    assert "no base" in capsys.readouterr().err
    assert own(tiny_target, (folders[0], tmp_path / "gone"), tmp_path / "out") == 2
    assert "gone does not exist" in capsys.readouterr().err
    assert own(tmp_path / "no model", folders, tmp_path / "out") == 2
    assert "no model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_suspects_alone_are_set_beside_a_reference(
    tiny_target: Path, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The target itself, of which nothing differs: no statistic is lower."""
    out = tmp_path / "out"
    words = ["own", tiny_target, "--suspect", folders[0], "--reference", tiny_target, "--out", out, "--attacks", "pia"]
    for _ in range(2):
        # The same command again goes on: here nothing is left.
        assert main([*map(str, words), "--device", "cpu"]) == 0
        assert "no p-value of membership" in capsys.readouterr().out
    found = Suspects.model_validate_json((out / "run" / "suspects.json").read_bytes())
    assert (found.suspects, found.rows[0].lower, found.rows[0].median) == (24, 0, 0.0)
    assert (out / "run" / "report.html").is_file()
    assert not (out / "run" / "results.json").exists()
    assert read_manifest(Location.of(out / "shards")).samples == 24
