"""The end of the graph: a batch is committed, also where it holds no rows, and only while the run is this job's."""

from pathlib import Path

import pyarrow as pa
import pytest

from ldm_scale.benchmarks.options import ReduceBenchmarkConfig
from ldm_scale.benchmarks.reduce import make_record
from ldm_scale.engine.commit import commit_stream
from ldm_scale.errors import RunError
from ldm_scale.files.ownership import Owner, own
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from ldm_scale.schema import REJECT
from tests.inline import Dataset

RECORD = make_record(ReduceBenchmarkConfig(rows=8), "made up")
REFUSED = [(f"made-up/{number}", "condition", "no label") for number in range(3)]
TABLE = pa.table(list(zip(*REFUSED, strict=True)), schema=REJECT)


@pytest.fixture
def run(tmp_path: Path, inline: None) -> RunDirectory:
    found = RunDirectory(Location.of(tmp_path / "run"))
    found.begin(RECORD)
    return found


def test_a_batch_of_rejects_alone_is_committed(run: RunDirectory) -> None:
    with own(run.root, pytest.fail) as owner:
        counts = list(commit_stream(Dataset(lambda: [TABLE]), run, RECORD.schema, 256, owner.claim))
    assert counts == [{"shard": "made-up", "rows": 0, "rejects": 3}]
    assert run.rejects()["sample_id"].to_pylist() == [key for key, *_ in REFUSED]
    assert run.reject_counts() == {"condition: no label": 3}
    assert list(run.parts()) == []


def test_nothing_is_committed_once_another_job_has_taken_over(run: RunDirectory) -> None:
    """At once: whether this job's own beats have seen it does not matter."""
    later = Owner(host="elsewhere", pid=7, since="2026-01-01 00:00:00+00:00")
    with own(run.root, pytest.fail) as owner:
        (run.root / "owners/000002.json").create(later.model_dump_json().encode())
        commits = commit_stream(Dataset(lambda: [TABLE]), run, RECORD.schema, 256, owner.claim)
        with pytest.raises(RunError, match="another one has taken over the run"):
            list(commits)
    assert run.reject_parts() == []
