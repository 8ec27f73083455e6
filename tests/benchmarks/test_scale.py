"""The simulation: the rate it takes of a run's parts, and the whole of it on pretended GPUs."""

import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from ldm_scale.benchmarks.options import ScaleBenchmarkConfig
from ldm_scale.benchmarks.pictures import make_picture, make_shards
from ldm_scale.benchmarks.scale import run_graph, run_scale_benchmark, steady_rate
from ldm_scale.benchmarks.simulated import DONE
from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.base import DEMO, build
from ldm_scale.errors import UsageError
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location, read_table
from ldm_scale.schema import REJECT
from tests.benchmarks.meeting import MeetingAuditorActor
from tests.jobs.cluster import clean_environment

ROOT = Path(__file__).parents[2]


def test_the_rate_is_that_between_start_and_end(tmp_path: Path) -> None:
    """A hundred batches of three samples, two a second, after a start and before an end that take long."""
    run = RunDirectory(Location.of(tmp_path / "run"))
    for number in range(100):
        second = 0 if number == 0 else 1.7e9 + number / 2 if number < 99 else 1.8e9
        ids = [f"shard/{number}-{row}" for row in range(3)]
        run.commit(pa.table({"sample_id": ids, DONE: [float(second)] * 3}), REJECT.empty_table())
    assert steady_rate(run) == pytest.approx(6)


def test_a_ray_elsewhere_and_pools_of_none_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UsageError, match="RAY_ADDRESS"):
        next(run_scale_benchmark(ScaleBenchmarkConfig()))
    for sizes in ("0", "", "2,0"):
        with pytest.raises(UsageError, match="fake_gpus"):
            build(ScaleBenchmarkConfig, {"fake_gpus": sizes})


@pytest.mark.slow
def test_pools_on_pretended_gpus_take_what_they_wait_for() -> None:
    command = [sys.executable, "jobs/benchmark.py", "--fake-gpus", "1,3", "--batch-seconds", "0.2", "--batches", "50"]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"^scale: (\d) auditors: ([\d.,]+) samples/s, (.*)$", done.stdout, re.MULTILINE)
    assert [auditors for auditors, *_ in found] == ["1", "3", "3"]
    waiting, samples = re.compile(r"[\d.]+ times the bound of (\d+), (\d+) samples$"), re.compile(r"(\d+) samples; ")
    assert [waiting.match(rest).groups() for *_, rest in found[:2]] == [("20", "200"), ("60", "600")]  # type: ignore[union-attr]
    assert samples.match(found[2][2])[1] == "600"  # type: ignore[index]
    # Nobody is faster than an auditor who never waits; without waiting the graph is.
    rates = [float(rate.replace(",", "")) for _, rate, _ in found]
    assert rates[0] < 20
    assert rates[1] < 60 < rates[2]


@pytest.mark.usefixtures("local_ray")
def test_the_next_batch_is_on_its_way_while_one_computes_and_none_computes_beside_it(tmp_path: Path) -> None:
    make_shards(Location.of(tmp_path / "shards"), 64, 2, [make_picture(0, 32)])
    values = {"out": str(tmp_path / "run"), "shards": str(tmp_path / "shards"), "target": str(DEMO / "target")}
    compute = {"device": "cpu", "actors": 1, "batch_size": 8, "rows_per_part": 16}
    run = run_graph(build(AuditConfig, values | {"compute": compute}), MeetingAuditorActor)
    met = [value for part in run.parts() for value in read_table(part, ["distortion"])["distortion"].to_pylist()]
    assert met == [1] * 64
