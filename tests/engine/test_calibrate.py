"""The calibration set: which samples it draws, and what a rank of another run is good for."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ldm_scale.data.manifest import ShardInfo
from ldm_scale.data.task import ReadTask
from ldm_scale.engine.audit import run_audit
from ldm_scale.engine.calibrate import draw_calibration
from ldm_scale.errors import UsageError
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from ldm_scale.inputs import check_inputs
from tests.engine.runs import column, make_config, read_rows
from tests.inline import inline_ray

SIZES = {"a": 100, "b": 40, "c": 100, "d": 7}
RANKED = {"attacks": {"sima": {"timesteps": [0, 50]}}, "geometry": {"probes": 2, "distortion": "off"}}


def make_tasks() -> tuple[ReadTask, ...]:
    return tuple(
        ReadTask(
            folder="f",
            shard=ShardInfo(name=f"members/{stem}.tar", samples=size, bytes=1, sha256="0" * 64),
            membership=True,
        )
        for stem, size in SIZES.items()
    )


@pytest.mark.parametrize("count", [5, 120, 200])
def test_it_draws_about_as_many_as_asked_from_no_more_shards_than_hold_them(count: int) -> None:
    for seed in range(20):
        chosen = draw_calibration(make_tasks(), SIZES, count, seed)
        held = sum(task.shard.samples for task in chosen)
        assert held >= count > held - chosen[-1].shard.samples
        assert chosen[0].share == pytest.approx(count / held)


def test_the_draw_depends_on_stems_and_seed_not_on_the_order() -> None:
    tasks = make_tasks()
    names = [[task.shard.name for task in draw_calibration(tasks, SIZES, 50, seed)] for seed in range(10)]
    assert names == [[task.shard.name for task in draw_calibration(tasks[::-1], SIZES, 50, seed)] for seed in range(10)]
    assert len({tuple(found) for found in names}) > 1


def test_more_than_there_are_draws_all() -> None:
    chosen = draw_calibration(make_tasks(), SIZES, 1000, 0)
    assert len(chosen) == 4
    assert all(task.is_member(f"k{number}") for task in chosen for number in range(50))


def test_a_share_of_the_keys_is_drawn() -> None:
    task = make_tasks()[0].model_copy(update={"share": 0.3, "seed": 1})
    drawn = [task.is_member(f"k{number}") is True for number in range(2000)]
    # Four standard deviations of 0.3 * 2000.
    assert sum(drawn) == pytest.approx(600, abs=4 * (2000 * 0.3 * 0.7) ** 0.5)


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path, tiny_target: Path) -> tuple[Path, Path]:
    """A finished run, and one that takes its ranking for a global mask."""
    folder = tmp_path_factory.mktemp("ranked")
    masks = {"bins": 5, "ranking": str(folder / "first")}
    with inline_ray():
        run_audit(make_config(folder / "first", tiny_shards, tiny_target, **RANKED, masks={"bins": 5}))
        run_audit(make_config(folder / "second", tiny_shards, tiny_target, **RANKED, masks=masks))
    return folder / "first", folder / "second"


def test_a_finished_runs_ranking_serves_as_the_global_mask(ranked: tuple[Path, Path]) -> None:
    first, second = ranked
    means = pq.read_table(first / "ranking.parquet")["mean"].to_numpy()
    rows = read_rows(second)
    # The leakage column is |S_i| at the middle timestep, the second.
    vectors, found = column(rows, "leakage").astype(float) ** 4, column(rows, "sima_global").reshape(-1, 2, 5)[:, 1]
    bins = np.empty(64, dtype=int)
    bins[np.argsort(means, kind="stable")] = np.arange(64) * 5 // 64
    expected = np.stack([vectors[:, bins == b].sum(1) for b in range(5)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=5e-3)
    assert RunDirectory(Location.of(second)).read_calibration() is None


def test_the_ranking_is_part_of_the_fingerprint_and_its_address_is_not(
    ranked: tuple[Path, Path], tmp_path: Path, tiny_shards: Path, tiny_target: Path
) -> None:
    first, second = ranked
    moved = Path(shutil.copytree(first, tmp_path / "moved"))

    def fingerprint(ranking: str | None) -> str:
        masks = {"bins": 5, "ranking": ranking}
        return check_inputs(make_config(second, tiny_shards, tiny_target, **RANKED, masks=masks)).fingerprint

    assert fingerprint(str(first)) == fingerprint(str(moved))
    assert len({fingerprint(str(first)), fingerprint("calibration"), fingerprint(None)}) == 3


def test_a_ranking_that_cannot_be_used_is_named(tmp_path: Path, tiny_shards: Path, tiny_target: Path) -> None:
    config = make_config(tmp_path / "out", tiny_shards, tiny_target, masks={"bins": 5, "ranking": str(tmp_path)})
    with pytest.raises(UsageError, match=r"holds no run\.json"):
        check_inputs(config)
