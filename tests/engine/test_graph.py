"""The graph on a real Ray: what it commits and what it reduces is what one process does, one thing at a time."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from ldm_scale.analysis.results import Results
from ldm_scale.engine.reduce import reduce_run
from ldm_scale.files.ownership import own
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from tests.engine.runs import assert_same_rows, raw_rows
from tests.engine.watched import Watched

pytestmark = pytest.mark.usefixtures("local_ray")


def test_rows_do_not_depend_on_workers(watched: Watched, undisturbed: Path) -> None:
    """By two auditors in batches of twelve, and by those that took the place of both."""
    ours, theirs = (raw_rows(run) for run in (watched.run, RunDirectory(Location.of(undisturbed))))
    assert len(watched.run.parts()) > 5
    assert_same_rows(ours, theirs)


def test_results_of_the_same_rows_do_not_depend_on_workers(undisturbed: Path, tmp_path: Path) -> None:
    run = RunDirectory(Location.of(shutil.copytree(undisturbed, tmp_path / "run")))
    expected = Results.model_validate_json((run.root / "results.json").read_bytes())
    ranking = run.reduction().read_ranking()
    with own(run.root, pytest.fail) as owner:
        assert reduce_run(run, run.read_record().config.analysis, owner) == expected
    np.testing.assert_allclose(run.reduction().read_ranking()["mean"], ranking["mean"], rtol=1e-12)
