"""The reducer's benchmark: made-up rows, their reduction, what it says of it; and the bound that large runs keep."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ldm_scale.benchmarks.options import BenchmarkConfig, ReduceBenchmarkConfig
from ldm_scale.benchmarks.reduce import make_rows, run_reduce_benchmark
from ldm_scale.cli import main
from ldm_scale.config.audit import AnalysisConfig
from ldm_scale.config.base import build
from ldm_scale.engine import reduce
from ldm_scale.errors import UsageError

SMALL = {"rows": 600, "dimensions": 8, "attacks": "sima,pfami", "timesteps": 2, "bins": 5, "rows-per-part": 250}
QUICK = {"analysis.repeats": 2, "analysis.bootstrap": 20}


@pytest.mark.usefixtures("local_ray")
def test_the_command_reduces_made_up_rows_and_prints_time_and_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = [word for name, value in (SMALL | QUICK).items() for word in (f"--{name}", str(value))]
    assert main(["benchmark", "reduce", "--out", str(out), *flags]) == 0
    reduced, *peaks = capsys.readouterr().out.splitlines()[-3:]
    assert re.match(r"reduce: reduction: [\d.,]+ rows/s, \d+ s; 600 rows in 3 parts, 0.00 GB, made in \d+ s$", reduced)
    found = [re.match(r"reduce: peak memory of the ([\w ]+): ([\d.]+) GB", line) for line in peaks]
    assert [match[1] for match in found if match] == ["driver", "largest worker"]
    # A process that imported NumPy and Arrow holds tens of megabytes.
    assert min(float(match[2]) for match in found if match) > 0.05
    results = json.loads((out / "results.json").read_bytes())
    assert (results["members"], results["heldout"], results["repeats"]) == (300, 300, 2)
    assert {line["attack"] for line in results["headline"]} == {"sima", "pfami"}


def test_rows_depend_on_the_seed_and_the_part_alone() -> None:
    config = ReduceBenchmarkConfig(rows=500, dimensions=4, timesteps=2, bins=5, rows_per_part=200, ranking=True)
    first, again, last = (make_rows(config, part) for part in (0, 0, 2))
    assert first.equals(again)
    assert (len(first), len(last)) == (200, 100)
    assert last["sample_id"].to_pylist() == [f"made-up/{i:09d}" for i in range(400, 500)]
    assert not first.equals(make_rows(config.model_copy(update={"seed": 1}), 0))
    # Members are lower in the upper bins: by 10% in the mean of 100 x 2 x 3 log-normal values each.
    values = np.array(first["sima"].to_pylist()).reshape(200, 2, 5)[:, :, 2:]
    member = np.array(first["member"].to_pylist())
    assert np.log(values[member]).mean() < np.log(values[~member]).mean()


def test_a_ray_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UsageError, match="RAY_ADDRESS"):
        next(run_reduce_benchmark(ReduceBenchmarkConfig()))


@pytest.mark.parametrize(("part", "option"), [("reduce", "attacks"), ("train", "presets"), ("device", "targets")])
def test_a_list_of_nothing_is_refused(part: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", part, f"--{option}", ""]) == 2
    assert capsys.readouterr().err == f"ldm-scale: error: {option}: give at least one\n"
    with pytest.raises(UsageError, match=r"^parts: give at least one$"):
        build(BenchmarkConfig, {"parts": ""})


@pytest.mark.slow
def test_a_large_run_is_reduced_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More samples than are resampled exactly; an attack's spectra are 576 MB, of which a task may hold 64."""
    monkeypatch.setattr(reduce, "MEMORY", 1 << 26)
    analysis = AnalysisConfig(repeats=4, bootstrap=100)
    config = ReduceBenchmarkConfig(out=str(tmp_path / "run"), rows=120_000, rows_per_part=2000, analysis=analysis)
    reduced, *peaks = run_reduce_benchmark(config)
    assert "120000 rows in 60 parts" in reduced.note
    assert all(0.05 < peak.value < 1 for peak in peaks)
    grid = pq.read_table(tmp_path / "run" / "metrics.parquet")
    assert len(grid) == 2 * 3 * 20 * 20
