"""The reducer: results from rows alone."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ldm_scale.analysis.results import Results
from ldm_scale.cli import main
from ldm_scale.engine.audit import run_audit
from tests.engine.test_audit import make_config

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path, tiny_target: Path) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    run_audit(make_config(out, tiny_shards, tiny_target))
    return out


def test_reduce_and_report_need_rows_and_nothing_else(finished: Path, tmp_path: Path) -> None:
    """In another place, with only run.json and samples/ left, the same results come out."""
    out = tmp_path / "elsewhere"
    shutil.copytree(finished / "samples", out / "samples")
    shutil.copy(finished / "run.json", out)
    assert main(["reduce", str(out)]) == 0
    assert (out / "results.json").read_bytes() == (finished / "results.json").read_bytes()
    assert pq.read_table(out / "ranking.parquet") == pq.read_table(finished / "ranking.parquet")
    assert pq.read_table(out / "metrics.parquet") == pq.read_table(finished / "metrics.parquet")
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").is_file()


def test_reduce_takes_other_analysis_options(finished: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    assert main(["reduce", str(out), "--drop", "0.6", "--bootstrap", "20"]) == 0
    results = Results.model_validate_json((out / "results.json").read_bytes())
    assert results.bootstrap == 20
    assert {row.calibrated.drop for row in results.headline if row.row in ("lowest", "random", "highest")} == {0.6}


def test_the_order_of_parts_does_not_matter(finished: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    parts = sorted((out / "samples").glob("*.parquet"))
    for number, path in enumerate(reversed(parts)):
        path.rename(path.with_name(f"part-{number:04d}.parquet"))
    assert main(["reduce", str(out)]) == 0
    assert (out / "results.json").read_bytes() == (finished / "results.json").read_bytes()


def test_status_reads_files_only(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(finished)]) == 0
    printed = capsys.readouterr().out
    assert "48 of 48 samples done" in printed
    assert "report.html: written" in printed


def test_a_run_without_rows_fails_in_one_line(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(finished / "run.json", tmp_path)
    assert main(["reduce", str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("has no rows yet; run the audit first")
