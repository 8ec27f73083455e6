"""The graph on a real Ray: what it commits and what it reduces is what one process does, one thing at a time."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from ldm_scale.analysis.results import Results
from ldm_scale.engine.audit import run_audit
from ldm_scale.engine.reduce import reduce_run
from ldm_scale.files.ownership import own
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from tests.engine.runs import assert_same_rows, make_config, raw_rows

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def spread(
    local_ray: None, tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path, tiny_target: Path
) -> RunDirectory:
    """The run of every attack, by two auditors in batches of seven."""
    out = tmp_path_factory.mktemp("spread") / "run"
    compute = {"device": "cpu", "batch_size": 7, "actors": "0..2", "rows_per_part": 5}
    run_audit(make_config(out, tiny_shards, tiny_target, compute=compute))
    return RunDirectory(Location.of(out))


def test_rows_do_not_depend_on_workers(spread: RunDirectory, undisturbed: Path) -> None:
    ours, theirs = (raw_rows(run) for run in (spread, RunDirectory(Location.of(undisturbed))))
    assert len(spread.parts()) > 5
    assert_same_rows(ours, theirs)


def test_results_of_the_same_rows_do_not_depend_on_workers(
    spread: RunDirectory, undisturbed: Path, tmp_path: Path
) -> None:
    run = RunDirectory(Location.of(shutil.copytree(undisturbed, tmp_path / "run")))
    expected = Results.model_validate_json((run.root / "results.json").read_bytes())
    ranking = run.reduction().read_ranking()
    with own(run.root, pytest.fail) as owner:
        assert reduce_run(run, run.read_record().config.analysis, owner) == expected
    np.testing.assert_allclose(run.reduction().read_ranking()["mean"], ranking["mean"], rtol=1e-12)
