"""One finished run for all tests that read one."""

from pathlib import Path

import pytest

from ldm_scale.engine.audit import run_audit
from tests.engine.runs import make_config
from tests.inline import inline_ray


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path, tiny_target: Path) -> Path:
    """A finished run of every attack; to be copied before it is changed."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    with inline_ray():
        run_audit(make_config(out, tiny_shards, tiny_target))
    return out
