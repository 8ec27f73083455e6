"""The batch of an audit: as asked for, as the run began, or as an auditor's memory holds it."""

from pathlib import Path

import pytest
import ray

from ldm_scale.costs.batch import SHARE
from ldm_scale.engine.batch import settle_batch
from ldm_scale.engine.plan import plan_audit
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from ldm_scale.inputs import Inputs, check_inputs
from tests.engine.runs import BRIEF, make_config

pytestmark = pytest.mark.usefixtures("inline")


def read(out: Path, shards: Path, target: Path, **compute: object) -> Inputs:
    return check_inputs(make_config(out, shards, target, **BRIEF, compute=compute))


def cluster(monkeypatch: pytest.MonkeyPatch, **resources: float) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)


def test_a_batch_that_is_asked_for_stays(tmp_path: Path, tiny_shards: Path, tiny_target: Path) -> None:
    inputs = read(tmp_path / "run", tiny_shards, tiny_target, batch_size=7)
    settled, batch = settle_batch(inputs, RunDirectory(Location.of(tmp_path / "run")))
    assert (settled.config, batch.size) == (inputs.config, 7)


def test_a_run_is_resumed_with_the_batch_that_it_began_with(
    tmp_path: Path, tiny_shards: Path, tiny_target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(Location.of(tmp_path / "run"))
    inputs = read(tmp_path / "run", tiny_shards, tiny_target, device="cpu", actors=2)
    small = 1_000_000
    cluster(monkeypatch, CPU=2.0, memory=small / SHARE)
    with monkeypatch.context() as patch:
        # As one of two auditors needs for eight samples, and no more.
        patch.setattr("ldm_scale.costs.memory.MemoryEstimate.of", lambda _, batch: Peak(batch * small // 16))
        settled, batch = settle_batch(inputs, run)
    assert batch.size == settled.config.compute.batch_size == 8
    assert settled.fingerprint == inputs.fingerprint
    run.begin(plan_audit(settled, run).record)
    cluster(monkeypatch, CPU=2.0, memory=8e9)
    assert settle_batch(inputs, run)[1].size == 8
    other = read(tmp_path / "run", tiny_shards, tiny_target, device="cpu", batch_size=5)
    assert settle_batch(other, run)[1].size == 5


class Peak(int):
    """Stands in for a memory of so many bytes."""

    @property
    def peak(self) -> int:
        return int(self)


def test_no_memory_is_asked_of_gpus_that_are_still_to_come(
    tmp_path: Path, tiny_shards: Path, tiny_target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster(monkeypatch, CPU=2.0)
    inputs = read(tmp_path / "run", tiny_shards, tiny_target, gpus="0..8")
    assert settle_batch(inputs, RunDirectory(Location.of(tmp_path / "run")))[1].size == 32


@pytest.mark.parametrize(("share", "part"), [(1, 1), (2, 1), (0.25, 0.25)])
def test_auditors_that_share_a_gpu_share_its_memory(
    share: float, part: float, tmp_path: Path, tiny_shards: Path, tiny_target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster(monkeypatch, CPU=2.0, GPU=2.0)
    monkeypatch.setattr("ldm_scale.engine.batch._gpu_memory", ray.remote(lambda: 80_000_000_000))
    inputs = read(tmp_path / "run", tiny_shards, tiny_target, device="cuda", gpus_per_actor=share)
    batch = settle_batch(inputs, RunDirectory(Location.of(tmp_path / "run")))[1]
    assert batch.why.endswith(f"of {80 * part:g} GB")
