"""The rows of a run, however they are spread over parts, against all of them in memory."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldm_scale.analysis.scores import Candidate, Mask
from ldm_scale.benchmarks.options import ReduceBenchmarkConfig
from ldm_scale.benchmarks.reduce import make_rows
from ldm_scale.engine.rows import Index, StoredRows, build_index, stream
from ldm_scale.files.parts import Balance, Expected, Plan
from ldm_scale.files.storage import Location
from ldm_scale.schema import split_id
from tests.analysis.spectra import Spectra

CONFIG = ReduceBenchmarkConfig(rows=60, dimensions=6, attacks=("sima",), timesteps=3, bins=5, ranking=True)


def spread(folder: Path, table: pa.Table, seed: int) -> list[Location]:
    """The rows in random order over many small parts; a third of them twice, some of these in one part."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(np.concatenate([np.arange(len(table)), rng.choice(len(table), len(table) // 3)]))
    bounds = np.sort(rng.choice(np.arange(len(rows)), 12))  # some parts may be empty
    for number, some in enumerate(np.split(rows, bounds)):
        pq.write_table(table.take(some), folder / f"part-{number:02d}.parquet")
    return Location.of(folder).files(".parquet")


def index_of(table: pa.Table, files: list[Location]) -> Index:
    """The index of parts that hold these samples, as a run that was asked for them reads it."""
    split: dict[str, dict[str, bool]] = {}
    for sample_id, member in zip(table["sample_id"].to_pylist(), table["member"].to_pylist(), strict=True):
        stem, key = split_id(sample_id)
        split.setdefault(stem, {})[key] = member
    index = build_index(files, Plan(table.schema, Expected.of(split), split), [], [])
    assert index.balance == Balance({}, ())
    return index


@pytest.fixture(params=range(5))
def spread_out(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[pa.Table, list[Location]]:
    """Rows sorted by id, and the parts they are in."""
    table = make_rows(CONFIG, 0)
    # Ids that sort by code point: an upper-case letter first, one beyond ASCII last.
    ids = [f"{'Zaé'[i % 3]}/{i}" for i in range(len(table))]
    table = table.set_column(0, table.schema.field(0), pa.array(ids))
    parts = spread(tmp_path, table, request.param)
    return table.take(sorted(range(len(ids)), key=ids.__getitem__)), parts


def in_memory(table: pa.Table) -> Spectra:
    def read(column: str) -> np.ndarray:
        return np.array(table[column].to_pylist(), dtype=np.float32).reshape(len(table), 3, 5)

    return Spectra(
        np.array(table["member"].to_pylist()), (0, 10, 20), read("sima"), read("sima_random"), read("sima_global")
    )


def test_the_index_holds_each_sample_once_in_the_order_of_ids(spread_out: tuple[pa.Table, list[Location]]) -> None:
    table, files = spread_out
    index = index_of(table, files)
    assert index.sample_id.to_pylist() == table["sample_id"].to_pylist()
    assert index.sample_id.type == pa.large_string()  # more than 2 GB of ids
    assert index.member.tolist() == table["member"].to_pylist()
    np.testing.assert_array_equal(index.distortion, table["distortion"].to_numpy())
    np.testing.assert_array_equal(index.stability[:, 1], table["stability_overlap"].to_numpy())
    places = np.concatenate([part.places for part in index.parts])
    assert sorted(places) == list(range(len(table)))


def test_streamed_columns_come_to_their_places(spread_out: tuple[pa.Table, list[Location]]) -> None:
    table, files = spread_out
    found = np.empty((len(table), 6), dtype=np.float16)
    for part, (leakage,) in stream(index_of(table, files).parts, ["leakage"]):
        found[part.places] = leakage
    np.testing.assert_array_equal(found, np.array(table["leakage"].to_pylist()))


@pytest.mark.parametrize("mean", [False, True])
def test_scores_and_spectra_are_those_of_all_rows_in_memory(
    spread_out: tuple[pa.Table, list[Location]], mean: bool
) -> None:
    table, files = spread_out
    rows = StoredRows.of(index_of(table, files), "sima", (0, 10, 20), 5, True, mean)
    spectra = in_memory(table).averaged() if mean else in_memory(table)
    assert rows.timesteps == spectra.timesteps
    assert rows.masks == spectra.masks
    last = len(rows.timesteps) - 1
    candidates = [Candidate(mask, dropped, step) for mask in Mask for dropped in (0, 2) for step in (last, 0)]
    (scores, bins), (expected, by_bin) = rows.read(candidates, last), spectra.read(candidates, last)
    np.testing.assert_allclose(scores, expected, rtol=1e-12)
    np.testing.assert_array_equal(bins, by_bin)
    for mask in Mask:
        np.testing.assert_array_equal(rows.spectra(rows.column(mask), slice(1)), spectra.of(mask)[:, :1])


def test_without_one_ranking_there_is_no_global_mask(tmp_path: Path) -> None:
    table = make_rows(CONFIG, 0)
    index = index_of(table, spread(tmp_path, table, 0))
    masks = StoredRows.of(index, "sima", (0, 10, 20), 5, False, False).masks
    assert masks == [Mask.LOWEST, Mask.RANDOM, Mask.HIGHEST]
