"""The end of the graph: what a batch holds is committed, also where it holds no rows."""

from pathlib import Path

import pyarrow as pa
import pytest

from ldm_scale.config.audit import ComputeConfig
from ldm_scale.engine.commit import commit_stream
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from ldm_scale.schema import REJECT, row_schema
from tests.inline import Dataset


@pytest.mark.usefixtures("inline")
def test_a_batch_of_rejects_alone_is_committed(tmp_path: Path) -> None:
    refused = [(f"shard/{number}", "condition", "no label") for number in range(3)]
    table = pa.table(list(zip(*refused, strict=True)), schema=REJECT)
    run = RunDirectory(Location.of(tmp_path / "run"))
    schema = row_schema(4, {"sima": 2}, 2, {}, one_ranking=False)
    counts = list(commit_stream(Dataset(lambda: [table]), run, schema, ComputeConfig(), 1))
    assert counts == [{"shard": "shard", "rows": 0, "rejects": 3}]
    assert run.rejects()["sample_id"].to_pylist() == [key for key, *_ in refused]
    assert run.reject_counts() == {"condition: no label": 3}
    assert list(run.parts()) == []
