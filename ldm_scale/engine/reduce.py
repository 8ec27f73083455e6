"""The reducer: rows to rankings, metrics and results, as Ray tasks over parts and over attacks; no GPU, no model."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray

from ldm_scale.analysis.ranking import RankingSums, merge, ranking_table
from ldm_scale.analysis.results import Results
from ldm_scale.analysis.scores import Spectra
from ldm_scale.analysis.summary import AttackSummary, level_warnings, summarise_attack
from ldm_scale.config import AnalysisConfig
from ldm_scale.errors import RunError
from ldm_scale.rundir import RunDirectory, RunRecord
from ldm_scale.schema import control
from ldm_scale.storage import Location, read_table, write_table


@dataclass(frozen=True)
class _Index:
    """The distinct rows, sorted by sample id, and their positions in the concatenation of all parts.

    rows: for each part, which of its rows are counted.
    """

    position: np.ndarray
    rows: list[np.ndarray]
    sample_id: np.ndarray
    member: np.ndarray
    distortion: np.ndarray


def _read_array(part: Location, column: str, shape: tuple[int, ...]) -> np.ndarray:
    """A column of fixed-size lists, (rows, *shape)."""
    return read_table(part, [column])[column].combine_chunks().flatten().to_numpy().reshape(-1, *shape)


@ray.remote(num_cpus=0.5)
def _build_index(parts: list[Location]) -> _Index:
    tables = [read_table(part, ["sample_id", "member", "distortion"]) for part in parts]
    sizes = [len(table) for table in tables]
    table = pa.concat_tables(tables)
    # The first of equal ids: a retried write repeats a row, and rows are pure.
    sample_id, position = np.unique(table["sample_id"].to_numpy().astype(str), return_index=True)
    starts = np.cumsum([0, *sizes[:-1]])
    return _Index(
        position,
        [
            np.sort(position[(position >= start) & (position < start + size)]) - start
            for start, size in zip(starts, sizes, strict=True)
        ],
        sample_id,
        table["member"].to_numpy()[position],
        table["distortion"].to_numpy()[position],
    )


@ray.remote(num_cpus=0.5)
def _sum_ranking(part: Location, rows: np.ndarray, dimensions: int, drop: float) -> RankingSums:
    return RankingSums.of(_read_array(part, "influence", (dimensions,))[rows], drop)


@ray.remote(num_cpus=0.5)
def _summarise(
    parts: list[Location], index: _Index, name: str, record: RunRecord, config: AnalysisConfig
) -> AttackSummary:
    shape = (len(record.timesteps[name]), record.config.masks.bins)
    by_influence, at_random = (
        np.concatenate([_read_array(part, column, shape) for part in parts])[index.position]
        for column in (name, control(name))
    )
    spectra = Spectra(index.member, record.timesteps[name], by_influence, at_random)
    return summarise_attack(name, spectra, index.sample_id, index.distortion, config, record.config.seed)


def _rank(parts: list[Location], index: _Index, record: RunRecord, drop: float) -> pa.Table:
    sums = [
        _sum_ranking.remote(part, rows, record.dimensions, drop)
        for part, rows in zip(parts, index.rows, strict=True)
        if len(rows)
    ]
    return ranking_table(merge(ray.get(sums)), record.latent_shape)


def reduce_run(run: RunDirectory, config: AnalysisConfig) -> Results:
    """Reduce the rows of a run and write results.json, metrics.parquet and ranking.parquet beside them.

    Raises RunError where there are too few rows of either side. Runs within a session.
    """
    record, parts = run.read_record(), run.parts()
    if not parts:
        raise RunError(f"{run.root} has no rows yet; run the audit first")
    reference = _build_index.remote(parts)
    index: _Index = ray.get(reference)
    members, heldout = int(index.member.sum()), int((~index.member).sum())
    if min(members, heldout) < 2:
        raise RunError(f"{run.root} has rows of {members} members and {heldout} held-out; two of each are needed")
    pending = [_summarise.remote(parts, reference, name, record, config) for name in record.timesteps]
    ranking = _rank(parts, index, record, config.drop)
    summaries: list[AttackSummary] = ray.get(pending)
    results = Results(
        fingerprint=record.fingerprint,
        inputs={name: record.science[name] for name in ("shards", "split", "target")},
        members=members,
        heldout=heldout,
        expected=record.samples,
        rejected=run.reject_counts(),
        distortion_measured=int(np.isfinite(index.distortion).sum()),
        bootstrap=config.bootstrap,
        confidence=config.confidence,
        headline=tuple(row for summary in summaries for row in summary.headline),
        by_timestep=tuple(point for summary in summaries for point in summary.by_timestep),
        by_drop=tuple(point for summary in summaries for point in summary.by_drop),
        by_distortion=tuple(group for summary in summaries for group in summary.by_distortion),
        roc=tuple(point for summary in summaries for point in summary.roc),
        at_risk=tuple(summaries[0].at_risk),
        warnings=tuple(level_warnings(heldout)),
        versions=record.versions,
    )
    write_table(run.root / "metrics.parquet", pa.concat_tables([summary.grid for summary in summaries]))
    write_table(run.root / "ranking.parquet", ranking)
    (run.root / "results.json").replace(results.model_dump_json(indent=1).encode())
    return results
