"""Finished runs for all tests that read one."""

from pathlib import Path

import pytest

from ldm_scale.engine.audit import run_audit
from tests.engine.runs import make_config
from tests.engine.watched import Watched, watch, with_broken
from tests.inline import inline_ray


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path, tiny_target: Path) -> Path:
    """A finished run of every attack; to be copied before it is changed."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    with inline_ray():
        run_audit(make_config(out, tiny_shards, tiny_target))
    return out


@pytest.fixture(scope="session")
def watched(local_ray: None, tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path, tiny_target: Path) -> Watched:
    """The same run on a real Ray, by two auditors that die and those that replace them, with two broken pictures."""
    folder = tmp_path_factory.mktemp("watched")
    with_broken(tiny_shards, folder / "shards")
    compute = {"device": "cpu", "batch_size": 12, "actors": "0..2", "rows_per_part": 5}
    changes = {"compute": compute, "max_reject_fraction": 0.1}
    return watch(make_config(folder / "run", folder / "shards", tiny_target, **changes))
