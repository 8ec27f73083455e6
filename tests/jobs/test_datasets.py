"""The paper's six rows: a small source in the official layout, packed, and its job on a tiny target of its kind."""

import html
import json
import re
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ldm_scale.analysis.results import Results
from ldm_scale.cli import main, run_job
from ldm_scale.config.published import PUBLISHED
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from tests.counting import count_once
from tests.data.sources import official, test_cifar10, test_imagenet
from tests.inline import inline_ray
from tests.jobs.cluster import ray_job, submit
from tests.jobs.conftest import ROOT
from tests.targets import tiny


@dataclass(frozen=True)
class Row:
    """One row of the paper: how its source is made and packed, its target, and what its recipe must resolve to."""

    pack: str
    source: Callable[[Path], Any]
    target: Callable[[Path], Path]
    timesteps: int
    images: dict[str, Any]


ROWS = {
    "cifar10": Row("cifar10", test_cifar10.write_binary, tiny.unconditional, 30, {"crop": None}),
    "celeba": Row("celeba", official.celeba_original, tiny.unconditional, 30, {"crop": 140, "filter": "bilinear"}),
    "imagenet": Row("imagenet", test_imagenet.write_tar, tiny.class_unet, 30, {"crop": None, "filter": "bicubic"}),
    "pokemon": Row("parquet", official.pokemon, tiny.stable_diffusion, 20, {"crop": None, "filter": "bilinear"}),
    "coco": Row("coco", official.coco, tiny.stable_diffusion, 20, {"crop": None, "filter": "bilinear"}),
    "flickr": Row("flickr30k", official.flickr_token, tiny.stable_diffusion, 20, {"crop": None, "filter": "bilinear"}),
}


# The one that is submitted to a cluster.
SUBMITTED = "imagenet"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What LDM_SCALE_ROOT names: shards/DATASET and targets/DATASET of every row."""
    root = tmp_path_factory.mktemp("place")
    (root / "sources").mkdir()
    with inline_ray(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(official, "COUNT", 16)
        for name, row in ROWS.items():
            row.source(root / "sources" / name)
            arguments = ["pack", row.pack, str(root / "sources" / name), str(root / "shards" / name)]
            assert main(arguments) == 0
            row.target(root / "targets" / name)
    return root


def check(name: str, place: Path) -> None:
    """The row's run is whole, and what its recipe says."""
    run = place / "runs" / name
    manifest = json.loads((place / "shards" / name / "manifest.json").read_text())
    results = Results.model_validate_json((run / "results.json").read_bytes())
    assert results.members + results.heldout == sum(shard["samples"] for shard in manifest["shards"]) > 10
    assert {row.attack for row in results.headline} == {"sima", "loss", "pia", "secmi"}
    record = RunDirectory(Location.of(run)).read_record()
    assert {name: len(steps) for name, steps in record.timesteps.items()} == dict.fromkeys(
        ("sima", "loss", "pia", "secmi"), ROWS[name].timesteps
    )
    assert ROWS[name].images.items() <= record.config.images.model_dump().items()
    assert 'class="departures"' not in (run / "report.html").read_text()
    assert (record.preset, record.departures) == (None, ())


@pytest.mark.parametrize("name", [name for name in ROWS if name != SUBMITTED])
@pytest.mark.usefixtures("inline")
def test_a_job_audits_the_row(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDM_SCALE_ROOT", str(place))
    job = runpy.run_path(str(ROOT / f"jobs/{name}.py"))
    saving = ["--analysis.repeats", "2", "--analysis.bootstrap", "50"]
    assert run_job(job["__doc__"], job["RECIPE"], saving, dataset=name) == 0
    check(name, place)


@pytest.mark.parametrize("name", ROWS)
def test_the_published_procedure_of_every_row_can_be_estimated(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its attacks, timesteps and estimators, and each departure, are said before anything starts."""
    count_once(monkeypatch)
    monkeypatch.setenv("LDM_SCALE_ROOT", str(place))
    job = runpy.run_path(str(ROOT / f"jobs/{name}.py"))
    preset = ["--preset", "published", "--dry-run"]
    assert run_job(job["__doc__"], job["RECIPE"], preset, dataset=name) == 0
    said = [line.strip() for line in capsys.readouterr().out.splitlines()]
    departures = [line.removeprefix("departure").strip() for line in said if line.startswith("departure")]
    assert departures == [*PUBLISHED[name].departures]
    attacks = next(line for line in said if line.startswith("attacks"))
    assert f"sima: {ROWS[name].timesteps} timesteps" in attacks
    assert "secmi: 19 timesteps 0, 10, ..., 180" in attacks
    assert ("pfami_published: 10 timesteps" in attacks) == (ROWS[name].target is tiny.stable_diffusion)
    geometry = next(line for line in said if line.startswith("geometry"))
    truncated = {"cifar10": (16, 50), "celeba": (16, 50), "imagenet": (8, 20)}
    probes, rank = truncated.get(name, (8, None))
    estimator = f"truncated of rank {rank}" if rank else "slq"
    assert f"{probes} probes; distortion {estimator} on 100% of the samples" in geometry


@pytest.mark.usefixtures("inline")
def test_a_published_run_says_what_departs_from_the_authors(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rest of the procedure, and the options that were given over it, in the log, run.json and the report."""
    monkeypatch.setenv("LDM_SCALE_ROOT", str(place))
    job = runpy.run_path(str(ROOT / "jobs/cifar10.py"))
    over = ["--out", str(tmp_path / "run"), "--attacks", "sima,secmi", "--geometry.probes", "4", "--latent", "mode"]
    over += ["--attacks.sima.timesteps", "0:300:10", "--attacks.secmi.timesteps", "0,140", "--images.filter", "lanczos"]
    saving = ["--analysis.repeats", "2", "--analysis.bootstrap", "50"]
    assert run_job(job["__doc__"], job["RECIPE"], ["--preset", "published", *over, *saving], dataset="cifar10") == 0
    log, record = capsys.readouterr().out, RunDirectory(Location.of(tmp_path / "run")).read_record()
    assert record.preset == "published"
    assert record.departures == (
        *PUBLISHED["cifar10"].departures,
        "attacks: loss, which theirs has, is not run",
        "attacks: pia, which theirs has, is not run",
        "attacks.secmi.timesteps is 0,140, theirs 0:190:10",
        "geometry.probes is 4, theirs 16",
    )
    page = html.unescape((tmp_path / "run" / "report.html").read_text())
    assert [text in page and f" {text}\n" in log for text in record.departures] == [True] * 8


def test_a_submitted_job_audits_the_row(cluster: dict[str, str], checkout: Path, place: Path) -> None:
    """`ray job submit jobs/imagenet.py`, bare, on a cluster that knows its place, has a log to read."""
    known = {"LDM_SCALE_ROOT": str(place), "LDM_SCALE_SHARDS": "", "LDM_SCALE_TARGET": ""}
    environment = json.dumps({"env_vars": known})
    job = f"jobs/{SUBMITTED}.py"
    named = ("--submission-id", "by-path", "--runtime-env-json", environment)
    done = submit(cluster, checkout, *named, "--", job)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "succeeded" in done.stdout
    check(SUBMITTED, place)
    printed = ray_job(cluster, checkout, "logs", "by-path").stdout
    log = printed.split(f"Running entrypoint for job by-path: {job}\n")[1].rstrip().splitlines()
    # Ray says that it will say nothing.
    assert "Set ray log level" in log.pop(0)
    assert log[0] == "audit"
    assert log[1].startswith("  target ")
    beginnings = ("  fingerprint ", f"{place}/runs/{SUBMITTED}: 12 samples", "12 of 12 samples", "\u250f", "report: ")
    places = [next(n for n, line in enumerate(log) if line.startswith(beginning)) for beginning in beginnings]
    assert places == sorted(places)
    assert places[-1] == len(log) - 1
    assert [line for line in log if re.search("INFO|WARN|ERROR|ray[./]|core_worker", line)] == []
