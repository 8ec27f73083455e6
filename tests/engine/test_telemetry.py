"""Ray's metrics port while an audit runs: what is counted there moves, and ends as what was done."""

import json
import re
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from ldm_scale.config.data import PackConfig
from ldm_scale.data.manifest import read_manifest
from ldm_scale.data.pack import pack
from ldm_scale.engine import audit, progress, telemetry
from ldm_scale.engine.audit import run_audit
from ldm_scale.files.ownership import Ownership
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from tests.conftest import BROKEN, make_folder
from tests.engine.runs import make_config

DASHBOARD = Path(__file__).parents[2] / "clusters" / "grafana.json"
STAGES = ("read", "decode", "encode", "geometry", "attacks", "commit")
Totals = dict[str, float]


def defined() -> dict[str, set[str]]:
    """The series of each metric, as Prometheus has them."""
    kinds = {"": {**telemetry.COUNTERS, **telemetry.GAUGES}, "_bucket _count _sum": telemetry.HISTOGRAMS}
    return {
        name: {f"ray_ldm_scale_{name}{suffix}" for suffix in suffixes.split(" ")}
        for suffixes, found in kinds.items()
        for name in found
    }


def scrape() -> Totals:
    """The sum over workers of each of our series, and by each value of our own tags."""
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    # As Prometheus does, without a token.
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    found: Totals = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("ray_ldm_scale_"):
                found[sample.name] += sample.value
                for tag in ("stage", "reason", "operation"):
                    if tag in sample.labels:
                        found[f"{sample.name} {tag}={sample.labels[tag]}"] += sample.value
    return found


def settled() -> Totals:
    """What is there when no worker has anything more to tell: workers tell every second."""
    before = scrape()
    for _ in range(30):
        time.sleep(2)
        after = scrape()
        if after == before:
            return after
        before = after
    raise TimeoutError


def test_the_metrics_of_a_running_audit_move_and_end_as_what_was_done(
    local_ray: None, tmp_path: Path, tiny_target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_folder(tmp_path / "source", 60)
    (source / "dog/000.png").write_bytes(BROKEN)
    (source / "dog/002.png").write_bytes(BROKEN + b", too")
    shards = tmp_path / "shards"
    pack(PackConfig(dataset="folder", source=str(source), out=str(shards), near_duplicates=0, shard_samples=10))
    config = make_config(
        tmp_path / "run",
        shards,
        tiny_target,
        attacks={"sima": {"timesteps": [0, 50, 100]}, "pia": {"timesteps": [0, 50]}},
        geometry={"influence": "hutchinson", "probes": 3, "distortion": "exact"},
        masks={"bins": 5},
        max_reject_fraction=0.1,
    )
    before = settled()
    running: list[Totals] = []

    def moves(now: Totals) -> bool:
        return now["ray_ldm_scale_samples_total"] > before["ray_ldm_scale_samples_total"]

    def watch(owner: Ownership) -> None:
        """The job goes on when its first part is seen at the port, and how many auditors there are said to be."""
        while not (running and moves(running[-1]) and running[-1]["ray_ldm_scale_pool_auditors"] == 7):
            running.append(scrape())
            assert len(running) < 1000, running[-1]
            time.sleep(0.1)

    monkeypatch.setattr(Ownership, "check", watch)
    monkeypatch.setattr(audit, "pool_size", lambda actor: 7)
    monkeypatch.setattr(progress, "OFTEN", 0.5)
    run_audit(config)
    after = settled()
    moved = {name: after[name] - before[name] for name in after}

    run, manifest = RunDirectory(Location.of(config.out)), read_manifest(Location.of(shards))
    done = run.progress()
    good = 58
    assert (done.rows, done.rejects) == (good, {"decode: cannot be decoded": 2})
    assert moved["ray_ldm_scale_samples_total"] == good
    assert moved["ray_ldm_scale_rejects_total"] == 2
    assert moved["ray_ldm_scale_rejects_total stage=decode"] == 2
    assert moved["ray_ldm_scale_rejects_total reason=cannot be decoded"] == 2
    assert moved["ray_ldm_scale_read_bytes_total"] == sum(shard.bytes for shard in manifest.shards)
    # eps(z, t) at three timesteps, of which PIA takes the one at t = 0, and two of its own.
    assert moved["ray_ldm_scale_denoiser_evaluations_total"] == 5 * good
    # Three probes, and a Jacobian of 64 dimensions.
    assert moved["ray_ldm_scale_decoder_products_total"] == (3 + 64) * good
    observed = {stage: moved[f"ray_ldm_scale_stage_seconds_count stage={stage}"] for stage in STAGES}
    names = {file.name for file in (*run.parts(), *run.reject_parts())}
    assert observed["read"] == len(manifest.shards)
    assert observed["commit"] == len(names)
    assert observed["encode"] == observed["geometry"] == observed["attacks"] >= good / config.compute.batch_size
    # Several batches are decoded at once.
    assert observed["decode"] >= 1
    # All that is defined has the names that are expected, but what there is only on a GPU, or after a fault.
    silent = {"gpu_memory_bytes", "s3_retries_total"}
    series = {name.split(" ")[0] for name in {*running[-1], *after}}
    assert set().union(*(found for name, found in defined().items() if name not in silent)) <= series


def test_reasons_are_labels_of_a_few_values() -> None:
    """Whatever numbers and texts the data bring in."""
    reasons = {
        "cannot be decoded: broken PNG",
        "cannot be decoded: truncated",
        "more than max_pixels = 1000 (40 x 40)",
        "more than max_pixels = 9 (7 x 7)",
        "a class label 17, which is not in 0 ... 9",
        "a class label 18, which is not in 0 ... 9",
        "no caption",
        "no caption (its caption is not UTF-8, or of more than 65536 bytes)",
    }
    assert {telemetry.reason_kind(reason) for reason in reasons} == {
        "cannot be decoded",
        "more than max_pixels = N",
        "a class label N, which is not in N ... N",
        "no caption",
    }


def test_items_are_timed_without_what_their_reader_does(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [0.0], []
    monkeypatch.setattr(telemetry.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(telemetry, "_observe", lambda *values: told.append(values))

    def make() -> Iterator[int]:
        for number in range(3):
            now[0] += 1
            yield number
        now[0] += 0.5

    for _ in telemetry.timed_each("read", make()):
        now[0] += 100
    assert told == [("read", 3.5)]


def test_parts_of_nothing_are_counted_as_nothing() -> None:
    """Ray's counters refuse a zero."""
    nothing = pa.table({"sample_id": [], "stage": [], "reason": []})
    telemetry.committed(nothing, nothing)
    telemetry.shard_read(0)


def expressions() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def test_the_dashboard_shows_each_metric_and_no_other() -> None:
    shown = {name for expression in expressions() for name in re.findall(r"ray_\w+", expression)}
    known = defined()
    assert shown <= set().union(*known.values())
    assert {metric for metric, series in known.items() if series & shown} == set(known)


def test_the_dashboard_looks_back_for_gauges() -> None:
    """The port has a gauge for 20 seconds after it was set; the number of auditors is told every minute."""
    gauges = [text for text in expressions() if any(f"ray_ldm_scale_{name}" in text for name in telemetry.GAUGES)]
    assert gauges
    assert all(re.search(r"last_over_time\(ray_ldm_scale_\w+\{[^}]*\}\[2m\]\)", text) for text in gauges)


def test_the_dashboard_can_be_imported_anywhere() -> None:
    """Its data source is a variable, and neither it nor a panel has an id of some server's."""
    dashboard = json.loads(DASHBOARD.read_text())
    assert (dashboard["id"], dashboard["uid"]) == (None, None)
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in dashboard["panels"]:
        assert panel["datasource"] == source
        assert "id" not in panel
    assert variables["session"]["datasource"] == source
    used = {name for text in expressions() for name in re.findall(r"\$(\w+)", text)}
    assert used <= {*variables, "__rate_interval"}


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
