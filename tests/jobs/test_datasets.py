"""The paper's six rows: a small source in the official layout, packed, and its job on a tiny target of its kind."""

import html
import runpy
from pathlib import Path

import pytest

from ldm_scale.cli import run_job
from ldm_scale.config.published import PUBLISHED
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from tests.counting import count_once
from tests.jobs.conftest import ROOT
from tests.jobs.rows import ROWS, SAVING, SUBMITTED, check_row, make_place
from tests.targets import tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("place"), ROWS)


@pytest.mark.parametrize("name", [name for name in ROWS if name != SUBMITTED])
@pytest.mark.usefixtures("inline")
def test_a_job_audits_the_row(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDM_SCALE_ROOT", str(place))
    job = runpy.run_path(str(ROOT / f"jobs/{name}.py"))
    assert run_job(job["__doc__"], job["RECIPE"], SAVING, dataset=name) == 0
    check_row(name, place)


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


@pytest.mark.parametrize("name", PUBLISHED)
def test_help_describes_the_recipe_that_is_asked_for(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The job's own: how influences are measured, which captions are taken. The authors': what departs from theirs."""
    job = runpy.run_path(str(ROOT / f"jobs/{name}.py"))
    said = {}
    for preset in ("default", "published"):
        with pytest.raises(SystemExit):
            run_job(job["__doc__"], job["RECIPE"], ["--preset", preset, "--help"], dataset=name)
        said[preset] = " ".join(capsys.readouterr().out.split())
    first, _, own = (" ".join(part.split()) for part in job["__doc__"].partition("\n"))
    assert [first in text for text in said.values()] == [True, True]
    assert (own in said["default"], own in said["published"]) == (True, False)
    departures = PUBLISHED[name].departures
    assert [departures[0] in text for text in said.values()] == [False, True]
    assert all(departure in said["published"] for departure in departures)


@pytest.mark.usefixtures("inline")
def test_a_published_run_says_what_departs_from_the_authors(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rest of the procedure, and the options that were given over it, in the log, run.json and the report."""
    monkeypatch.setenv("LDM_SCALE_ROOT", str(place))
    job = runpy.run_path(str(ROOT / "jobs/cifar10.py"))
    over = ["--out", str(tmp_path / "run"), "--attacks", "sima,secmi", "--geometry.probes", "4", "--latent", "mode"]
    over += ["--attacks.sima.timesteps", "0:300:10", "--attacks.secmi.timesteps", "0,140", "--images.filter", "lanczos"]
    assert run_job(job["__doc__"], job["RECIPE"], ["--preset", "published", *over, *SAVING], dataset="cifar10") == 0
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
