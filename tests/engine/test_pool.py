"""How many auditors a pool gets: by the configuration, the cluster and the work there is."""

import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import ray
import torch

from ldm_scale.config.audit import AuditConfig, ComputeConfig
from ldm_scale.config.base import build
from ldm_scale.engine.actor import load_auditor
from ldm_scale.engine.pool import Pool, plan_pool, pool_size
from ldm_scale.errors import UsageError
from ldm_scale.files.parts import Expected
from ldm_scale.files.rundir import RunRecord
from ldm_scale.targets.execution import Execution
from ldm_scale.targets.weights import fetch_weights


@pytest.mark.parametrize(
    ("compute", "resources", "expected"),
    [
        # What the cluster holds, where nothing is asked for.
        ({}, {"CPU": 6}, Pool("cpu", 1, 6, 6, 6)),
        ({}, {"CPU": 6, "GPU": 2}, Pool("cuda", 1, 2, 2, 2)),
        ({"gpus_per_actor": 0.25}, {"CPU": 6, "GPU": 2}, Pool("cuda", 1, 8, 8, 8)),
        ({"device": "cpu"}, {"CPU": 6, "GPU": 2}, Pool("cpu", 1, 6, 6, 6)),
        # A number is the most; the cluster decides how many there are at first.
        ({"actors": 3}, {"CPU": 6}, Pool("cpu", 1, 3, 3, 6)),
        ({"actors": 8}, {"CPU": 6}, Pool("cpu", 1, 6, 8, 6)),
        ({"actors": "2..8", "initial_actors": 4}, {"CPU": 6}, Pool("cpu", 2, 4, 8, 6)),
        ({"actors": "7..8"}, {"CPU": 6}, Pool("cpu", 7, 7, 8, 6)),
        # A cluster that grows from nothing.
        ({"gpus": "0..64"}, {"CPU": 4}, Pool("cuda", 1, 1, 64, 0)),
        ({"gpus": "2..64"}, {"CPU": 4}, Pool("cuda", 2, 2, 64, 0)),
        ({"gpus": "1..4", "gpus_per_actor": 0.5}, {"CPU": 4}, Pool("cuda", 2, 2, 8, 0)),
        ({"gpus": "0..4", "gpus_per_actor": 2}, {"CPU": 4, "GPU": 2}, Pool("cuda", 1, 1, 2, 1)),
        ({"gpus": "0..64", "initial_actors": 16}, {"CPU": 4}, Pool("cuda", 1, 16, 64, 0)),
        # No more than there are batches: 320 samples are ten of 32, or two of 200.
        ({"gpus": "16..64"}, {"CPU": 40, "GPU": 40}, Pool("cuda", 10, 10, 10, 40)),
        ({"batch_size": 200, "initial_actors": 8}, {"CPU": 6}, Pool("cpu", 1, 2, 2, 6)),
    ],
)
def test_a_pool_is_as_large_as_asked_for_as_the_cluster_holds_and_as_the_work_needs(
    compute: dict[str, Any], resources: dict[str, float], expected: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    samples = 320 if expected.most in (2, 10) and "gpus_per_actor" not in compute else 100_000
    assert plan_pool(build(ComputeConfig, compute), samples) == expected


def test_a_gpu_that_is_asked_for_by_no_number_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    with pytest.raises(UsageError, match="this Ray cluster has no GPU"):
        plan_pool(build(ComputeConfig, {"device": "cuda"}), 100)


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        ({"gpus": "4..1"}, r"^compute.gpus: 4\.\.1 does not run"),
        ({"gpus": "many"}, r"^compute.gpus: 'many' is not a span"),
        ({"gpus": 0}, r"^compute.gpus: 0\.\.0 does not run"),
        ({"gpus": "0..4", "device": "cpu"}, r"^compute: gpus: leave out device cpu"),
        ({"gpus": "0..4", "actors": 4}, r"^compute: gpus: leave out actors"),
    ],
)
def test_what_cannot_be_meant_is_refused(compute: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(AuditConfig, {"out": "o", "compute": compute})


def record_of(target: Path, **changes: Any) -> RunRecord:
    return RunRecord(
        fingerprint="f",
        science=fetch_weights(str(target)).science(),
        config=build(AuditConfig, {"out": "o", "shards": "s", "target": str(target), **changes}),
        latent_shape=(4, 4, 4),
        timesteps={"sima": (0,)},
        expected=Expected(members={"m": 1}, heldout={"h": 1}),
        versions={},
    )


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (1, 1), (2, 2), (2.9, 2), (4, 4)])
def test_an_auditor_computes_with_the_cpus_it_reserves(
    cpus: float, threads: int, tiny_target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", found := Mock())
    load_auditor(record_of(tiny_target, compute={"cpus_per_actor": cpus}), "cpu")
    found.assert_called_once_with(threads)


def test_an_auditors_denoiser_is_run_as_the_configuration_says(tiny_target: Path) -> None:
    compute = {"channels_last": True, "evaluations": 5}
    auditor = load_auditor(record_of(tiny_target, compute=compute, precision="bfloat16"), "cpu")
    assert auditor._target._execution == Execution("bfloat16", "off", True)
    assert auditor._rows.limit == 5


@pytest.mark.usefixtures("local_ray")
def test_living_actors_of_a_kind_are_counted() -> None:
    # Classes of a function travel by value: the actors need not import this module.
    class Sleeper:
        def ready(self) -> bool:
            return True

    class OtherActor(Sleeper):
        pass

    kinds = [ray.remote(num_cpus=0)(kind) for kind in (Sleeper, OtherActor)]
    living = [kinds[0].remote(), kinds[0].remote(), kinds[1].remote()]
    ray.get([actor.ready.remote() for actor in living])
    assert (pool_size(Sleeper), pool_size(OtherActor)) == (2, 1)
    ray.kill(living.pop(0))
    while pool_size(Sleeper) == 2:
        time.sleep(0.1)
    assert (pool_size(Sleeper), pool_size(OtherActor)) == (1, 1)
