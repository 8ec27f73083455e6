"""A run as tables."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

import ldm_scale
from ldm_scale import Run, UsageError
from tests.notebook.runs import MADE_UP

pytestmark = pytest.mark.xdist_group("notebook")


@pytest.fixture(scope="module")
def run(made_up: tuple[Path, Path]) -> Run:
    return Run(str(made_up[0]))


def read_rows(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in (folder / "samples").iterdir()]).sort_by("sample_id")


def test_scores_are_sums_over_the_kept_bins(run: Run, made_up: tuple[Path, Path]) -> None:
    scores, rows = run.scores(), read_rows(made_up[0])
    assert len(scores) == 400 * (3 + 1) * 4
    assert list(scores.columns) == ["sample_id", "member", "attack", "timestep", "mask", "share", "score"]
    spectra = np.array(rows["sima"].to_pylist()).reshape(400, 3, 5)
    random = np.array(rows["sima_random"].to_pylist()).reshape(400, 3, 5)
    expected = {
        ("none", 0.0): spectra.sum(2), ("lowest", 0.4): spectra[:, :, 2:].sum(2),
        ("highest", 0.4): spectra[:, :, :3].sum(2), ("random", 0.4): random[:, :, :3].sum(2),
    }  # fmt: skip
    for (mask, share), statistic in expected.items():
        for step, timestep in enumerate((0, 10, 20)):
            some = scores[(scores.attack == "sima") & (scores["mask"] == mask) & (scores.timestep == timestep)]
            assert list(some.sample_id) == rows["sample_id"].to_pylist()
            np.testing.assert_allclose(some.score, -statistic[:, step])
            assert set(some.share) == {share}
    averaged = scores.query("attack == 'pfami'")
    assert averaged.timestep.isna().all()


def test_a_score_that_is_higher_means_member(run: Run) -> None:
    some = run.scores(["sima"]).query("mask == 'lowest' and timestep == 10")
    point = next(p for p in run.results.by_timestep if (p.attack, p.mask, p.timestep) == ("sima", "lowest", 10))
    assert roc_auc_score(some.member, some.score) == pytest.approx(point.auroc)
    assert point.auroc > 0.5


def test_the_headline_and_the_curves_are_those_of_the_results(run: Run) -> None:
    line, row = run.headline().iloc[1], run.results.headline[1]
    assert (line.attack, line.row, line.share) == (row.attack, row.row, row.heldout_choice.drop)
    assert (line.auroc, line.auroc_low) == (
        row.heldout_choice.metrics.auroc.value,
        row.heldout_choice.metrics.auroc.low,
    )
    assert row.heldout_choice.difference is not None
    assert line.minus_plain_auroc == row.heldout_choice.difference.auroc.value
    assert len(run.roc("sima")) == sum(point.attack == "sima" for point in run.results.roc)
    assert list(run.ranking()["dimension"]) == list(range(12))
    assert "<table" in run._repr_html_()


def test_rows_are_read_by_name_in_the_order_of_sample_ids(run: Run, made_up: tuple[Path, Path]) -> None:
    rows, expected = run.rows(("sample_id", "influence")), read_rows(made_up[0])
    assert list(rows.sample_id) == expected["sample_id"].to_pylist()
    np.testing.assert_array_equal(np.stack(rows.influence), np.array(expected["influence"].to_pylist()))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda run: run.scores(["simaa"]), r"unknown attack 'simaa'; did you mean 'sima'\?"),
        (lambda run: run.scores(drop=0.41), r"drop = 0\.41"),
        (lambda run: run.scores(drop=1.0), r"drop = 1\.0 must be"),
        (lambda run: run.rows(["inflence"]), r"unknown column 'inflence'; did you mean 'influence'\?"),
        (lambda run: run.roc("pia"), "unknown attack 'pia'"),
        (lambda run: Run(str(run.directory.root / "gone")), r"gone holds no run\.json"),
    ],
)
def test_wrong_arguments_are_named(run: Run, call: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        call(run)  # type: ignore[operator]


def test_the_public_names_are_listed() -> None:
    assert {"Run", "compare", "score", "run_audit"} <= set(dir(ldm_scale)) == set(ldm_scale.__all__)


def test_a_run_says_what_it_is(run: Run) -> None:
    assert repr(run).endswith(f"{MADE_UP.rows // 2} members, 200 held-out, sima, pfami")
