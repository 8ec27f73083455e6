"""From S3 to S3 over a network that fails here and there, an audit, a pack and a training give what they always do."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from ldm_scale.data.manifest import read_manifest
from ldm_scale.data.pack import pack
from ldm_scale.engine.audit import run_audit
from ldm_scale.engine.pack import run_pack
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location, sub_locations
from tests.addresses import upload
from tests.conftest import make_folder
from tests.data.packing import config, tree
from tests.engine.runs import BRIEF, column, make_config, raw_rows
from tests.faults import Fault, proxied

TINY = ("--size", "16", "--device", "cpu", "--autoencoder.channels", "8,8,16", "--autoencoder.batch", "8")
TINY += ("--denoiser.channels", "8,16", "--denoiser.batch", "8")
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


@pytest.mark.usefixtures("inline")
def test_a_pack_outlasts_faults(tmp_path: Path, bucket: str) -> None:
    source = make_folder(tmp_path / "source", 12)
    expected = pack(config(source, tmp_path / "out", near_duplicates=0.94, shard_samples=4))
    upload(source, f"{bucket}/source")
    name = bucket.removeprefix("s3://")
    faults = [
        *(Fault(kind, key=".png", at=100) for kind in ("SlowDown", "TooManyRequests", "truncated", "reset in body")),
        *(Fault(kind, key=name, at=200) for kind in ("ExpiredToken", "empty", "truncated")),
        *(Fault(kind, "PUT", ".tar") for kind in ("answer lost", "SlowDown")),
        *(Fault("answer lost", "PUT", written) for written in ("pack.json", "manifest.json", "counts.json")),
    ]
    there = {"source": f"{bucket}/source", "out": f"{bucket}/out"}
    with proxied(*faults) as proxy:
        found = run_pack(config(source, tmp_path, near_duplicates=0.94, shard_samples=4).model_copy(update=there))
    assert found == expected
    assert proxy.struck == {fault: fault.times for fault in faults}
    written = dict(sub_locations(Location.of(f"{bucket}/out"), ""))
    assert {key: place.read_bytes() for key, place in written.items()} == tree(tmp_path / "out")


@pytest.mark.slow
def test_a_training_outlasts_faults(tmp_path: Path, tiny_shards: Path, bucket: str) -> None:
    """Checkpoints among them: Arrow leaves out a file that S3 does not take, without an error."""
    upload(tiny_shards, f"{bucket}/shards")
    faults = [
        *(Fault(kind, key=".tar", at=1000) for kind in ("SlowDown", "truncated", "reset in body")),
        Fault("answer lost", "PUT", "training.json"),
        Fault("SlowDown", "PUT", ".safetensors", times=2),
        Fault("TooManyRequests", "PUT", "model_index.json"),
        Fault("reset", "POST", bucket.removeprefix("s3://")),
    ]
    command = "import sys; from ldm_scale.cli import main; sys.exit(main())"
    flags = [*TINY, "--autoencoder.epochs", "1", "--denoiser.epochs", "1"]
    with proxied(*faults) as proxy:
        done = subprocess.run(
            [sys.executable, "-c", command, "train", "--shards", f"{bucket}/shards", "--out", f"{bucket}/out", *flags],
            env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    assert proxy.struck == {fault: fault.times for fault in faults}
    left = [name for name, _ in sub_locations(Location.of(bucket), "")]
    assert "out/model_index.json" in left
    assert not [name for name in left if name.startswith("out.partial")]
