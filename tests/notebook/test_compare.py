"""Finished runs compared, by the function and by the command."""

import json
import shutil
from pathlib import Path

import pytest

from ldm_scale import Comparison, Run, UsageError, compare
from ldm_scale.cli import main
from tests.inline import inline_ray
from tests.notebook.runs import MADE_UP, write_run

pytestmark = pytest.mark.xdist_group("notebook")


def test_a_run_that_leaks_more_is_seen_to(made_up: tuple[Path, Path], tmp_path: Path) -> None:
    before, after = map(str, made_up)
    assert main(["compare", before, after, "--out", str(tmp_path / "out")]) == 0
    found = Comparison.model_validate_json((tmp_path / "out" / "comparison.json").read_bytes())
    assert found == compare([before, after])
    assert (found.members, found.heldout, found.warnings) == (200, 200, ())
    rows = {(row.attack, row.row, row.run): row for row in found.rows}
    assert {row for _, row, _ in rows} == {"plain", "lowest", "random", "highest"}
    plain, unchanged = rows["sima", "plain", 1].difference, rows["pfami", "plain", 1].difference
    assert plain is not None
    assert unchanged is not None
    assert plain.auroc.low > 0
    assert unchanged.auroc.value == 0
    assert [one.overlap for one in found.rankings] == [1]
    assert found.runs[0].p_value == Run(before).results.combined.inference.p_value
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "data:image/svg+xml" in page
    assert found.changed[0].sample_id in page
    # Nothing is overwritten.
    assert main(["compare", before, after, "--out", str(tmp_path / "out")]) == 2


def test_runs_without_a_page_leave_nothing(made_up: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *map(str, made_up), str(made_up[0]), "--drop", "0.2", "--bootstrap", "20"]) == 0
    printed = capsys.readouterr().out
    assert "lowest 20% dropped" in printed
    assert "too few" in printed
    assert f"run 2: {made_up[0]}" in printed
    assert sorted(path.name for path in made_up[0].parent.iterdir()) == ["after", "before"]


def test_samples_that_not_all_runs_have_are_left_out_and_counted(made_up: tuple[Path, Path], tmp_path: Path) -> None:
    part = shutil.copytree(made_up[1], tmp_path / "part")
    (part / "samples" / "part-001.parquet").unlink()
    found = compare([str(made_up[0]), str(part)])
    assert found.members + found.heldout == 250
    assert any("150 samples are left out" in warning for warning in found.warnings)


def test_a_run_with_other_draws_is_compared_with_a_warning(made_up: tuple[Path, Path], tmp_path: Path) -> None:
    with inline_ray():
        write_run(tmp_path / "other", config=MADE_UP.model_copy(update={"seed": 1, "attacks": ("sima",)}))
    found = compare([Run(str(made_up[0])), Run(str(tmp_path / "other"))])
    assert {row.attack for row in found.rows} == {"sima"}
    assert any("differs in seed" in warning for warning in found.warnings)


def test_what_cannot_be_compared_is_said(
    made_up: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(made_up[0])]) == 2
    assert "give two runs or more" in capsys.readouterr().err
    lost = shutil.copytree(made_up[0], tmp_path / "lost")
    record = json.loads((lost / "run.json").read_text())
    record["timesteps"] = {"loss": record["timesteps"]["sima"]}
    (lost / "run.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="no attack in common"):
        compare([str(made_up[0]), str(lost)])
