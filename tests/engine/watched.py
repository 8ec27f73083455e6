"""One audit on a real Ray through the deaths of two auditors, and what was seen of it at the metrics port."""

import shutil
import time
import urllib.request
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from ldm_scale.config.audit import AuditConfig
from ldm_scale.data.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from ldm_scale.data.samples import Sample
from ldm_scale.data.shards import write_shard
from ldm_scale.engine import audit, progress
from ldm_scale.files.ownership import Ownership
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from tests.conftest import BROKEN
from tests.engine.mortal import MORTAL, MortalAuditorActor, deaths

# The number of auditors that the job is made to say.
POOL = 7
Totals = dict[str, float]


@dataclass(frozen=True)
class Watched:
    """The run, what the port had before it, while it ran and in the end, and how many auditors started and died."""

    run: RunDirectory
    manifest: Manifest
    before: Totals
    running: Totals
    after: Totals
    started: int
    killed: int

    def moved(self, series: str) -> float:
        """By how much a series grew."""
        name = f"ray_ldm_scale_{series}"
        return self.after[name] - self.before[name]


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


def with_broken(shards: Path, folder: Path) -> None:
    """The same shards in `folder`, and one more of two pictures that nothing can decode."""
    shutil.copytree(shards, folder, ignore=shutil.ignore_patterns(MANIFEST))
    broken = (Sample(key=f"{number}", image=BROKEN + bytes(number), suffix="png") for number in range(2))
    place = Location.of(folder)
    manifest = read_manifest(Location.of(shards))
    # By its name, it is none of those that are calibrated on.
    info = write_shard(broken, place, "heldout/heldout-000004.tar")
    write_manifest(place, manifest.model_copy(update={"shards": (*manifest.shards, info)}))


def watch(config: AuditConfig) -> Watched:
    """Audit; two auditors die after their first batches, when the port has what they did."""
    run, before, running = RunDirectory(Location.of(config.out)), settled(), []

    def reported(now: Totals) -> bool:
        batches = "ray_ldm_scale_stage_seconds_count stage=attacks"
        samples = "ray_ldm_scale_samples_total"
        return (
            now[batches] == before[batches] + MORTAL
            and now[samples] > before[samples]
            and now["ray_ldm_scale_pool_auditors"] == POOL
        )

    def check(owner: Ownership) -> None:
        """The job goes on from its first part when all that was done is seen at the port."""
        if running or not run.parts():
            return
        deadline = time.monotonic() + 300
        while not reported(now := scrape()):
            assert time.monotonic() < deadline, now
            time.sleep(0.1)
        running.append(settled())
        (deaths(config.out) / "now").touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ownership, "check", check)
        patch.setattr(audit, "AuditorActor", MortalAuditorActor)
        patch.setattr(audit, "pool_size", lambda actor: POOL)
        patch.setattr(progress, "OFTEN", 0.5)
        audit.run_audit(config)
    started, killed = (len([*deaths(config.out).glob(f"{what}-*")]) for what in ("started", "killed"))
    return Watched(run, read_manifest(Location.of(config.shards)), before, running[0], settled(), started, killed)
