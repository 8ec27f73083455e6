"""The pool grows with the cluster, from no GPU to several and back, also where a machine disappears."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ldm_scale.benchmarks.pictures import make_picture, make_shards
from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.base import DEMO
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location, read_table
from tests.engine.autoscaling import growing_head

ROOT = Path(__file__).parents[2]
SAMPLES = 600


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, dict[str, str]]]:
    with growing_head() as head:
        yield head


def grow(cluster: tuple[str, dict[str, str]], folder: Path, *words: str) -> dict[str, int]:
    """Run an audit of 600 samples, 75 batches of one second; returns what was seen of the cluster."""
    ray_folder, environment = cluster
    make_shards(Location.of(folder / "shards"), SAMPLES, 2, [make_picture(0, 32)])
    compute = {"gpus": "0..3", "batch_size": 8, "rows_per_part": 16}
    config = AuditConfig(out=f"{folder}/run", shards=f"{folder}/shards", target=str(DEMO / "target"), compute=compute)
    (folder / "audit.json").write_text(config.model_dump_json())
    command = [sys.executable, "-m", "tests.engine.grow", folder / "audit.json", ray_folder, *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "device cuda, auditors: 1 to 3, 1 at first; the cluster holds 0 now" in done.stdout
    return json.loads(done.stdout.splitlines()[-1])


def rows(folder: Path) -> Counter[str]:
    run = RunDirectory(Location.of(folder / "run"))
    return Counter(key for part in run.parts() for key in read_table(part, ["sample_id"])["sample_id"].to_pylist())


@pytest.mark.slow
def test_the_pool_grows_from_nothing_takes_each_sample_once_and_gives_its_nodes_back(
    cluster: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    seen = grow(cluster, tmp_path)
    assert (seen["before"], seen["after"]) == (0, 0)
    assert seen["most"] >= 2
    found = rows(tmp_path)
    assert len(found) == SAMPLES
    assert set(found.values()) == {1}


@pytest.mark.slow
def test_a_node_that_disappears_is_replaced_and_takes_no_sample_with_it(
    cluster: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    seen = grow(cluster, tmp_path, "lose")
    assert seen["seen"] > seen["most"]
    assert seen["after"] == 0
    assert len(rows(tmp_path)) == SAMPLES
