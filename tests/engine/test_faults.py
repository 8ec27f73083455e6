"""An audit from S3 to S3 over a network that fails here and there gives the rows of an undisturbed one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from ldm_scale.data.manifest import read_manifest
from ldm_scale.engine.audit import run_audit
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from tests.addresses import upload
from tests.engine.runs import BRIEF, column, make_config, raw_rows
from tests.faults import Fault, proxied

IN_BODY = ("reset in body", "truncated", "shortened", "flipped")


def faults_of(shards: Path, bucket: str) -> list[Fault]:
    """Two random faults for each shard, and some for the listings, the target and whatever is written."""
    rng = np.random.default_rng(0)
    found = []
    for shard in read_manifest(Location.of(shards)).shards:
        found.append(Fault(str(rng.choice(["reset", "SlowDown", "InternalError"])), key=shard.name))
        found.append(Fault(str(rng.choice(IN_BODY)), key=shard.name, at=int(rng.integers(shard.bytes))))
    writes = [Fault("answer lost", "PUT", name) for name in ("run.json", ".parquet", "results.json", "report.html")]
    return [
        *found,
        *writes,
        Fault("truncated", key=bucket.removeprefix("s3://"), at=200, times=2),
        Fault("reset in body", key=".safetensors", at=10_000, times=2),
        Fault("SlowDown", "PUT", ".parquet", times=2),
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_an_audit_outlasts_faults(tmp_path: Path, tiny_shards: Path, tiny_target: Path, bucket: str) -> None:
    local = make_config(tmp_path / "run", tiny_shards, tiny_target, **BRIEF)
    run_audit(local)
    upload(tiny_shards, f"{bucket}/shards")
    upload(tiny_target, f"{bucket}/target")
    there = {"shards": f"{bucket}/shards", "target": f"{bucket}/target", "out": f"{bucket}/run"}
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(local.model_dump(mode="json", exclude_none=True) | there))
    faults = faults_of(tiny_shards, bucket)
    command = "import sys; from ldm_scale.cli import main; sys.exit(main())"
    with proxied(*faults) as proxy:
        # A Ray of its own: the session's was started with the way to the server itself.
        done = subprocess.run(
            [sys.executable, "-c", command, "audit", "--config", str(tmp_path / "audit.yaml")],
            env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    assert proxy.struck == {fault: fault.times for fault in faults}
    found, expected = (raw_rows(RunDirectory(Location.of(out))) for out in (f"{bucket}/run", tmp_path / "run"))
    assert found["sample_id"].to_pylist() == expected["sample_id"].to_pylist()
    assert len(set(found["sample_id"].to_pylist())) == 48
    assert found["member"].to_pylist() == expected["member"].to_pylist()
    np.testing.assert_allclose(column(found, "influence"), column(expected, "influence"), rtol=0, atol=4e-3)
    ours, theirs = (column(table, "sima").reshape(-1, 2, 5).sum(2) for table in (found, expected))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
