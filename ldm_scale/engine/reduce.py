"""The reducer: rows to rankings, metrics and results, as Ray tasks over parts and over attacks; no GPU, no model."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray

from ldm_scale.analysis.calibrated import geometry_features
from ldm_scale.analysis.leakage import correlate, dimension_aurocs
from ldm_scale.analysis.ranking import RankingSums, merge, ranking_table
from ldm_scale.analysis.results import Combined, Leakage, Results, Stability
from ldm_scale.analysis.scores import Spectra
from ldm_scale.analysis.summary import AttackSummary, level_warnings, summarise_attack
from ldm_scale.analysis.together import combine
from ldm_scale.config import AnalysisConfig
from ldm_scale.errors import RunError
from ldm_scale.rundir import RunDirectory, RunRecord
from ldm_scale.schema import control, globally
from ldm_scale.storage import Location, read_table, write_table

# Rows of a side: half of them are reported on, and a variance needs two.
FEWEST = 4


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
    stability: np.ndarray

    def collect(self, parts: list[np.ndarray]) -> np.ndarray:
        """The distinct rows, sorted, from an array for each part."""
        return np.concatenate(parts)[self.position]


def _read_array(part: Location, column: str, shape: tuple[int, ...]) -> np.ndarray:
    """A column of fixed-size lists, (rows, *shape)."""
    return read_table(part, [column])[column].combine_chunks().flatten().to_numpy().reshape(-1, *shape)


def _read_spectra(parts: list[Location], index: _Index, column: str, shape: tuple[int, int]) -> np.ndarray:
    return index.collect([_read_array(part, column, shape) for part in parts])


@ray.remote(num_cpus=0.5)
def _build_index(parts: list[Location]) -> _Index:
    measured = ["stability_correlation", "stability_overlap"]
    tables = [read_table(part, ["sample_id", "member", "distortion", *measured]) for part in parts]
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
        np.stack([table[name].to_numpy()[position] for name in measured], axis=1),
    )


@ray.remote(num_cpus=0.5)
def _sum_ranking(part: Location, rows: np.ndarray, dimensions: int, drop: float) -> RankingSums:
    return RankingSums.of(_read_array(part, "influence", (dimensions,))[rows], drop)


@ray.remote(num_cpus=0.5)
def _summarise(
    parts: list[Location], index: _Index, geometry: np.ndarray, name: str, record: RunRecord, config: AnalysisConfig
) -> AttackSummary:
    shape = (len(record.timesteps[name]), record.config.masks.bins)
    columns = [name, control(name)] + ([globally(name)] if record.config.masks.ranking else [])
    spectra = Spectra(
        index.member, record.timesteps[name], *(_read_spectra(parts, index, column, shape) for column in columns)
    )
    return summarise_attack(name, spectra, index.sample_id, index.distortion, geometry, config, record.config.seed)


@ray.remote(num_cpus=0.5)
def _combine(parts: list[Location], index: _Index, record: RunRecord, config: AnalysisConfig) -> Combined:
    bins = record.config.masks.bins
    spectra = [_read_spectra(parts, index, name, (len(steps), bins)) for name, steps in record.timesteps.items()]
    return combine(spectra, index.member, config, record.config.seed)


@ray.remote(num_cpus=0.5)
def _describe_geometry(parts: list[Location], index: _Index, dimensions: int) -> np.ndarray:
    """The features that a sample's statistic is calibrated by."""
    influences = (_read_array(part, "influence", (dimensions,)).astype(np.float64) for part in parts)
    moments = index.collect([np.stack([c.mean(axis=1), c.std(axis=1)], axis=1) for c in influences])
    return geometry_features(moments[:, 0], moments[:, 1], index.distortion)


@ray.remote(num_cpus=0.5)
def _measure_leakage(
    parts: list[Location], index: _Index, influence: np.ndarray, record: RunRecord, config: AnalysisConfig
) -> tuple[Leakage, np.ndarray]:
    """The correlation of influence and leakage, and each dimension's own AUROC."""
    vectors = index.collect([_read_array(part, "leakage", (record.dimensions,)) for part in parts])
    source = record.config.leakage
    leakage = Leakage(
        attack=source.attack,
        timestep=source.timestep,
        correlation=correlate(influence, vectors, index.member, config.confidence, record.config.seed),
    )
    return leakage, dimension_aurocs(vectors, index.member)


def _sum_influences(parts: list[Location], index: _Index, record: RunRecord, drop: float) -> RankingSums:
    sums = [
        _sum_ranking.remote(part, rows, record.dimensions, drop)
        for part, rows in zip(parts, index.rows, strict=True)
        if len(rows)
    ]
    return merge(ray.get(sums))


def _stability(index: _Index, probes: int) -> Stability | None:
    measured = index.stability[np.isfinite(index.stability).all(axis=1)]
    if not len(measured):
        return None
    correlation, overlap = measured.mean(axis=0, dtype=np.float64)
    return Stability(correlation=correlation, overlap=overlap, probes=probes)


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
    if min(members, heldout) < FEWEST:
        raise RunError(f"{run.root} has rows of {members} members and {heldout} held-out; {FEWEST} of each are needed")
    geometry = _describe_geometry.remote(parts, reference, record.dimensions)
    pending = [_summarise.remote(parts, reference, geometry, name, record, config) for name in record.timesteps]
    combined = _combine.remote(parts, reference, record, config)
    sums = _sum_influences(parts, index, record, config.drop)
    leakage, leaks = ray.get(_measure_leakage.remote(parts, reference, sums.influence / sums.count, record, config))
    summaries: list[AttackSummary] = ray.get(pending)
    results = Results(
        fingerprint=record.fingerprint,
        inputs={name: record.science[name] for name in ("shards", "split", "target")},
        members=members,
        heldout=heldout,
        expected=record.samples,
        rejected=run.reject_counts(),
        distortion_measured=int(np.isfinite(index.distortion).sum()),
        stability=_stability(index, record.config.geometry.probes),
        repeats=config.repeats,
        bootstrap=config.bootstrap,
        confidence=config.confidence,
        headline=tuple(row for summary in summaries for row in summary.headline),
        combined=ray.get(combined),
        leakage=leakage,
        by_timestep=tuple(point for summary in summaries for point in summary.by_timestep),
        by_drop=tuple(point for summary in summaries for point in summary.by_drop),
        by_bin=tuple(point for summary in summaries for point in summary.by_bin),
        by_distortion=tuple(group for summary in summaries for group in summary.by_distortion),
        roc=tuple(point for summary in summaries for point in summary.roc),
        at_risk=tuple(summaries[0].at_risk),
        warnings=tuple(level_warnings(heldout)),
        versions=record.versions,
    )
    write_table(run.root / "metrics.parquet", pa.concat_tables([summary.grid for summary in summaries]))
    write_table(run.root / "ranking.parquet", ranking_table(sums, record.latent_shape, leaks))
    (run.root / "results.json").replace(results.model_dump_json(indent=1).encode())
    return results
