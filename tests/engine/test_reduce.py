"""The reducer: results from rows alone."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr, ttest_ind
from sklearn.metrics import roc_auc_score

from ldm_scale.analysis import leakage
from ldm_scale.analysis.combined import LogOdds
from ldm_scale.analysis.results import Results
from ldm_scale.analysis.splithalf import halves
from ldm_scale.benchmarks.options import ReduceBenchmarkConfig
from ldm_scale.benchmarks.reduce import make_record, make_rows
from ldm_scale.cli import main
from ldm_scale.config.audit import AnalysisConfig
from ldm_scale.engine import reduce
from ldm_scale.files.ownership import own
from ldm_scale.files.reductions import publish
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location, read_table
from tests import made_up
from tests.inline import inline_ray

# One process, for one run that most of both read.
pytestmark = [pytest.mark.usefixtures("inline"), pytest.mark.xdist_group("audit")]


def test_reduce_and_report_need_rows_and_nothing_else(undisturbed: Path, tmp_path: Path) -> None:
    """In another place, with only run.json and samples/ left, the same results come out."""
    out = tmp_path / "elsewhere"
    shutil.copytree(undisturbed / "samples", out / "samples")
    shutil.copy(undisturbed / "run.json", out)
    assert main(["reduce", str(out)]) == 0
    assert (out / "results.json").read_bytes() == (undisturbed / "results.json").read_bytes()
    assert pq.read_table(out / "ranking.parquet") == pq.read_table(undisturbed / "ranking.parquet")
    assert pq.read_table(out / "metrics.parquet") == pq.read_table(undisturbed / "metrics.parquet")
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").is_file()


def test_reduce_takes_other_analysis_options(undisturbed: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    assert main(["reduce", str(out), "--drop", "0.6", "--bootstrap", "20"]) == 0
    results = Results.model_validate_json((out / "results.json").read_bytes())
    assert results.bootstrap == 20
    assert {row.heldout_choice.drop for row in results.headline if row.row in ("lowest", "random", "highest")} == {0.6}


def test_the_order_of_parts_does_not_matter(undisturbed: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    parts = sorted((out / "samples").glob("*.parquet"))
    for number, path in enumerate(reversed(parts)):
        path.rename(path.with_name(f"part-{number:04d}.parquet"))
    assert main(["reduce", str(out)]) == 0
    assert (out / "results.json").read_bytes() == (undisturbed / "results.json").read_bytes()


def test_status_reads_files_only(undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(undisturbed)]) == 0
    printed = capsys.readouterr().out
    assert "48 of 48 samples done" in printed
    assert "report.html: written" in printed


def test_a_run_without_rows_fails_in_one_line(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(undisturbed / "run.json", tmp_path)
    assert main(["reduce", str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("has no rows yet; run the audit first")


# Two attacks, one of them averaged over its timesteps; every kind of spectra.
MADE_UP = ReduceBenchmarkConfig(
    rows=2000, dimensions=12, attacks=("sima", "pfami"), timesteps=4, bins=5, ranking=True, rows_per_part=2000,
    analysis=AnalysisConfig(repeats=2, bootstrap=20),
)  # fmt: skip


def write_parts(folder: Path, pieces: list[pa.Table]) -> RunDirectory:
    run = RunDirectory(Location.of(folder))
    run.begin(make_record(MADE_UP, "made up"))
    (folder / "samples").mkdir()
    for number, piece in enumerate(pieces):
        pq.write_table(piece, folder / "samples" / f"part-{number:03d}.parquet")
    return run


def reduce_parts(run: RunDirectory) -> Results:
    with own(run.root, pytest.fail) as owner:
        results = reduce.reduce_run(run, MADE_UP.analysis, owner)
        publish(owner)
    return results


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    return make_rows(MADE_UP, 0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, rows: pa.Table) -> tuple[Path, Results]:
    """The results of all rows in one part."""
    folder = tmp_path_factory.mktemp("whole")
    with inline_ray():
        return folder, reduce_parts(write_parts(folder, [rows]))


def test_results_are_those_of_all_rows_in_memory(whole: tuple[Path, Results], rows: pa.Table) -> None:
    """Each kind of number by another way: scikit-learn on arrays of everything."""
    folder, results = whole
    member = np.array(rows["member"])

    def read(column: str) -> np.ndarray:
        return np.array(rows[column].to_pylist(), dtype=float)

    for row in pq.read_table(folder / "metrics.parquet").to_pylist():
        column = row["attack"] + {"random": "_random", "global": "_global"}.get(row["mask"], "")
        spectra = read(column).reshape(2000, 4, 5)
        step = slice(None) if row["timestep"] is None else slice(row["timestep"] // 10, row["timestep"] // 10 + 1)
        dropped = round(row["drop"] * 5)
        kept = slice(5 - dropped) if row["mask"] in ("highest", "random") else slice(dropped, None)
        statistic = spectra[:, step, kept].mean(axis=1).sum(axis=1)
        assert row["auroc"] == pytest.approx(roc_auc_score(member, -statistic), abs=1e-12)

    influence, leakage = read("influence"), read("leakage")
    ranking = pq.read_table(folder / "ranking.parquet")
    np.testing.assert_allclose(ranking["mean"], influence.mean(axis=0), atol=1e-12)
    leaks = [roc_auc_score(member, -column) for column in leakage.T]
    np.testing.assert_allclose(ranking["leakage"], leaks, atol=1e-12)
    assert results.leakage.correlation.value == pytest.approx(spearmanr(influence.mean(axis=0), leaks).statistic)

    spectra = [read("sima"), read("pfami")]
    totals = [spectrum.reshape(2000, 4, 5).sum(axis=2) for spectrum in spectra]
    features = np.log(np.concatenate([*totals, *spectra], axis=1))
    aurocs, p_values = [], []
    for split in range(2):
        choose, report = halves(member, 0, split)
        for known, fresh in ((choose, report), (report, choose)):
            odds = LogOdds.fit(features[known], member[known], singles=8).scores(features[fresh])
            suspect = member[fresh]
            aurocs.append(roc_auc_score(suspect, odds))
            p_values.append(ttest_ind(odds[suspect], odds[~suspect], equal_var=False, alternative="greater").pvalue)
    assert results.combined.metrics.auroc.value == pytest.approx(np.mean(aurocs[::2]), abs=1e-12)
    assert results.combined.inference.p_value == pytest.approx(min(1, 2 * np.median(p_values)), rel=1e-6)


def test_results_depend_neither_on_parts_nor_on_repeated_rows_nor_on_memory(
    whole: tuple[Path, Results], rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many parts of random sizes, down to one row; rows in random order, many of them twice; a step at a time."""
    rng = np.random.default_rng(0)
    order = rng.permutation(np.concatenate([np.arange(2000), rng.choice(2000, 300)]))
    bounds = np.unique(np.concatenate([rng.choice(2300, 40), np.arange(100, 110)]))
    run = write_parts(tmp_path, [rows.take(some) for some in np.split(order, bounds) if len(some)])
    monkeypatch.setattr(reduce, "MEMORY", 1)
    results = reduce_parts(run)
    folder, expected = whole
    assert results == expected
    metrics, ranking = (pq.read_table(tmp_path / name) for name in ("metrics.parquet", "ranking.parquet"))
    assert metrics == pq.read_table(folder / "metrics.parquet")
    for name in ranking.column_names:
        # Sums over parts are in another order.
        expected_column = pq.read_table(folder / "ranking.parquet")[name]
        np.testing.assert_allclose(ranking[name], expected_column, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("count", "most", "fewest", "sizes"),
    [(20, 6, 1, [5, 5, 5, 5]), (20, 100, 1, [20]), (20, 0, 1, [1] * 20), (5, 9, 2, [2, 3]), (3, 9, 8, [1] * 3)],
)
def test_work_is_split_evenly(count: int, most: int, fewest: int, sizes: list[int]) -> None:
    pieces = reduce._split(range(count), most, fewest)
    assert [len(piece) for piece in pieces] == sizes
    assert [i for piece in pieces for i in piece] == list(range(count))


def test_leakage_is_measured_on_so_many_samples_of_each_side_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leakage, "LEAKAGE_SIDE", 5)
    run = made_up.make_run(Location.of(tmp_path / "run"))
    with own(run.root, pytest.fail) as owner:
        reduce.reduce_run(run, run.read_record().config.analysis, owner)
    rows = pa.concat_tables(map(read_table, run.parts())).sort_by("sample_id")
    member = np.array(rows["member"])
    some = leakage.leakage_rows(member, 0)
    assert (len(np.unique(some)), member[some].sum()) == (10, 5)
    vectors = np.array(rows["leakage"].to_pylist())[some]
    leaks = [roc_auc_score(member[some], -column) for column in vectors.T]
    np.testing.assert_allclose(run.reduction().read_ranking()["leakage"], leaks, atol=1e-12)
