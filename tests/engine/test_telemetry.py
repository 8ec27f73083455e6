"""Ray's metrics port while an audit runs: what is counted there moves, and ends as what was done."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from ldm_scale.engine import telemetry
from tests.engine.runs import raw_rows
from tests.engine.watched import Watched

DASHBOARD = Path(__file__).parents[2] / "clusters" / "grafana.json"
# The shards that the keys of the calibration set draw.
CALIBRATED_ON = {"members-000000", "members-000001"}
STAGES = ("read", "decode", "encode", "geometry", "attacks", "commit")


def defined() -> dict[str, set[str]]:
    """The series of each metric, as Prometheus has them."""
    kinds = {"": {**telemetry.COUNTERS, **telemetry.GAUGES}, "_bucket _count _sum": telemetry.HISTOGRAMS}
    return {
        name: {f"ray_ldm_scale_{name}{suffix}" for suffix in suffixes.split(" ")}
        for suffixes, found in kinds.items()
        for name in found
    }


def test_the_metrics_of_a_running_audit_move_and_end_as_what_was_done(watched: Watched) -> None:
    """Through the deaths of two auditors; a row's distortion is there or null."""
    rows = raw_rows(watched.run)
    good, moved = len(rows), watched.moved
    done = watched.run.progress()
    assert (done.rows, done.rejects) == (good, {"decode: cannot be decoded": 2})
    assert moved("samples_total") == good
    assert moved("rejects_total") == 2
    assert moved("rejects_total stage=decode") == 2
    assert moved("rejects_total reason=cannot be decoded") == 2
    read = [*watched.manifest.shards, *(shard for shard in watched.manifest.shards if shard.stem in CALIBRATED_ON)]
    assert moved("read_bytes_total") == sum(shard.bytes for shard in read)
    # Each attack at two timesteps; what several ask for is evaluated once.
    assert moved("denoiser_evaluations_total") == 15 * good
    # Two probes, and a Jacobian of 64 dimensions if the distortion is measured.
    measured = good - rows["distortion"].null_count
    assert 0 < measured < good
    assert moved("decoder_products_total") == 2 * good + 64 * measured
    observed = {stage: moved(f"stage_seconds_count stage={stage}") for stage in STAGES}
    names = {file.name for file in (*watched.run.parts(), *watched.run.reject_parts())}
    assert observed["read"] == len(read)
    assert observed["commit"] == len(names)
    batch_size = watched.run.read_record().config.compute.batch_size
    assert observed["encode"] == observed["geometry"] == observed["attacks"] >= good / batch_size
    # Several batches are decoded at once.
    assert observed["decode"] >= 1
    # All that is defined has the names that are expected, but what there is only on a GPU, or after a fault.
    silent = {"gpu_memory_bytes", "s3_retries_total"}
    series = {name.split(" ")[0] for name in {*watched.running, *watched.after}}
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
