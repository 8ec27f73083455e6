"""Jobs submitted with their working directory to a real Ray of the test's own: packing, and the demo."""

import json
import os
import re
from pathlib import Path

import pytest

from ldm_scale.analysis.results import Results
from ldm_scale.data.manifest import read_manifest
from ldm_scale.files.storage import Location
from tests.conftest import make_folder
from tests.jobs.cluster import ask, folder_of, ray_job, submit
from tests.jobs.conftest import ROOT


def check(out: Path) -> None:
    results = Results.model_validate_json((out / "results.json").read_bytes())
    assert (results.members, results.heldout) == (24, 24)
    assert (out / "report.html").is_file()


def test_a_job_file_is_executable_and_says_how() -> None:
    for path in (ROOT / "jobs").glob("*.py"):
        assert os.access(path, os.X_OK), f"{path} lacks the executable bit"
        assert path.read_text().startswith("#!/usr/bin/env python\n")


@pytest.mark.slow
def test_submitted_with_its_working_directory(cluster: dict[str, str], checkout: Path, tmp_path: Path) -> None:
    """`ray job submit --working-dir . -- python jobs/demo.py --out DIR`."""
    job = (
        "python",
        "jobs/demo.py",
        "--out",
        str(tmp_path / "run"),
        "--analysis.bootstrap",
        "50",
        "--compute.actors",
        "1",
    )
    done = submit(cluster, checkout, "--working-dir", ".", "--", *job)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    check(tmp_path / "run")


@pytest.mark.slow
def test_submitted_with_its_package_installed_where_it_runs(cluster: dict[str, str], checkout: Path) -> None:
    """A runtime_env whose pip installs what was uploaded, with what it depends on."""
    packages = json.dumps({"pip": ["${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}"]})
    # The upload itself, where the job stands, has the package's metadata too.
    code = (
        "import sys; from importlib.metadata import distributions; "
        "paths = [path for path in sys.path if 'site-packages' in path]; "
        "print(next(distributions(name='ldm_scale', path=paths)).locate_file('there'))"
    )
    named = ("--submission-id", "installed", "--working-dir", ".", "--runtime-env-json", packages)
    done = submit(cluster, checkout, *named, "--", "python", "-c", code)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    # Of a job this short, what submit shows may lack the log.
    printed = ray_job(cluster, checkout, "logs", "installed").stdout
    assert re.search(f"^{folder_of(cluster)}/ray/.*/runtime_resources/pip/.*/there$", printed, re.MULTILINE)


@pytest.mark.slow
def test_submitted_with_uv_run(cluster: dict[str, str], checkout: Path, tmp_path: Path) -> None:
    """Ray runs the workers with the driver's `uv run`, too; without a project it takes the packages that are there."""
    job = ("uv", "run", "--no-project", "python", "jobs/demo.py", "--out", str(tmp_path / "run"))
    done = submit(cluster, checkout, "--working-dir", ".", "--", *job)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    check(tmp_path / "run")


def test_a_pack_is_a_job_too(cluster: dict[str, str], checkout: Path, tmp_path: Path) -> None:
    """`ray job submit --working-dir . -- python jobs/pack.py folder SOURCE OUT`."""
    source = make_folder(tmp_path / "source", 12)
    flags = ("--near-duplicates", "0.94", "--shard-samples", "6")
    job = ("python", "jobs/pack.py", "folder", str(source), str(tmp_path / "out"), *flags)
    done = submit(cluster, checkout, "--working-dir", ".", "--", *job)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert f"{tmp_path / 'out'}: 12 samples in 2 shards; random halves, seed 0" in done.stdout
    assert read_manifest(Location.of(tmp_path / "out")).samples == 12


def test_a_usage_error_fails_the_job_and_its_status_says_why(
    cluster: dict[str, str], checkout: Path, tmp_path: Path
) -> None:
    command = ("jobs/demo.py", "--out", str(tmp_path / "run"), "--masks.bins", "1")
    done = submit(cluster, checkout, "--submission-id", "refused", "--", *command)
    assert done.returncode == 1
    message = "demo.py: error: masks.bins: Input should be greater than 1"
    assert message in done.stdout
    assert "Traceback" not in done.stdout.split(message)[0]
    job = ask(cluster, "jobs/refused")
    assert job["status"] == "FAILED"
    assert "failed with exit code 2" in job["message"]
    assert message in job["message"]
