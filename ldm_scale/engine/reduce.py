"""The reducer: rows to rankings, metrics and results, as Ray tasks that stream the parts; no GPU, no model.

No task holds more than the samples' ids, labels and some scores, and as much of the spectra or of the leakage as
MEMORY allows; what is more is read again by another task.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import pyarrow as pa
import ray

from ldm_scale.analysis.adjusted import geometry_features
from ldm_scale.analysis.blind import control, controlled, name_features, row_features
from ldm_scale.analysis.choices import Choices, chosen_drops
from ldm_scale.analysis.combined import (
    FITTED,
    GROUPS,
    LogOdds,
    fitted_rows,
    group_sums,
    least_positive,
    log_features,
)
from ldm_scale.analysis.distortion import complete_distortion, distortion_bound
from ldm_scale.analysis.groups import distortion_groups, memberships
from ldm_scale.analysis.inference import infer_dataset
from ldm_scale.analysis.leakage import LEAKAGE_SIDE, correlate, jackknife, leakage_rows
from ldm_scale.analysis.ranking import RankingSums, merge, ranking_table
from ldm_scale.analysis.results import (
    BlindControl,
    Combined,
    DistortionEstimate,
    Estimate,
    Leakage,
    MetricSet,
    Results,
    RowName,
    Stability,
)
from ldm_scale.analysis.scan import Scan, join, scan
from ldm_scale.analysis.scores import Mask
from ldm_scale.analysis.splithalf import Judged, choosing, judge_halving, over_halvings
from ldm_scale.analysis.summary import (
    AttackSummary,
    GroupRow,
    group_aurocs,
    level_warnings,
    oracle_metrics,
    summarise_attack,
)
from ldm_scale.config.audit import FEWEST, AnalysisConfig, distortion_estimator, dropped_bins
from ldm_scale.engine.relative import relate_run
from ldm_scale.engine.rows import Index, Part, StoredRows, attack_rows, build_index, stream
from ldm_scale.errors import RunError
from ldm_scale.files.ownership import Ownership
from ldm_scale.files.reductions import METRICS, RANKING, write_reduction
from ldm_scale.files.rundir import RunDirectory, RunRecord, by_reason

# Bytes of spectra, features or leakage that a task holds at a time. Libraries and what it sorts take 0.8 GB more.
MEMORY = 1 << 31
# What is known of the geometry for the blind control.
GEOMETRY = ("mean influence", "deviation of influence", "distortion")
# Tasks over parts, and over latent dimensions, of a run that is small enough for fewer.
BUNDLES, BLOCKS = 32, 2
T = TypeVar("T")


def _split(items: Sequence[T], most: int, fewest: int = 1) -> list[Sequence[T]]:
    """Even neighbouring pieces of at most `most` items; at least `fewest` of them, if there are items for all."""
    pieces = min(len(items), max(fewest, -(-len(items) // max(1, most))))
    bounds = [len(items) * i // pieces for i in range(pieces + 1)]
    return [items[a:b] for a, b in pairwise(bounds)]


@dataclass(frozen=True)
class _PartSums:
    """What one pass over some parts keeps of them: mergeable sums, and two numbers a sample.

    moments: mean and standard deviation of c_i, (rows, 2), of the samples at `places`.
    """

    ranking: RankingSums
    places: np.ndarray
    moments: np.ndarray


@dataclass(frozen=True)
class _Reduction:
    """What every task knows."""

    record: RunRecord
    config: AnalysisConfig

    @property
    def seed(self) -> int:
        return self.record.config.seed

    @property
    def bins(self) -> int:
        return self.record.config.masks.bins

    @property
    def dropped(self) -> int:
        return dropped_bins(self.config.drop, self.bins)

    @property
    def singles(self) -> int:
        """The scores of single timesteps, of all attacks."""
        return sum(map(len, self.record.timesteps.values()))

    @property
    def features(self) -> int:
        """What the combined score weighs: these, and each spectrum's groups of bins."""
        return self.singles * (1 + min(GROUPS, self.bins))

    def rows(self, index: Index, name: str) -> StoredRows:
        return attack_rows(index, self.record, name, self.config.average)

    def group_sums(self, arrays: list[np.ndarray]) -> np.ndarray:
        """The features of the combined score before their log, from the spectra of each attack."""
        shapes = [(-1, len(steps), self.bins) for steps in self.record.timesteps.values()]
        return group_sums([array.reshape(shape) for array, shape in zip(arrays, shapes, strict=True)])


@dataclass(frozen=True)
class _Geometry:
    """What a sample's statistic is adjusted by, (rows, features), and the distortion that samples are grouped by."""

    features: np.ndarray
    distortion: np.ndarray


@dataclass(frozen=True)
class _Fits:
    """The combined score's classifiers of some halvings: of the choosing half, and of the other half.

    floor: the least positive value of each feature, over all samples.
    """

    floor: np.ndarray
    models: list[tuple[LogOdds, LogOdds]]


@dataclass(frozen=True)
class _Looked:
    """What choices reach on each halving, on all samples and in each group; by attack, and the combined score last."""

    judged: list[list[list[Judged]]]
    oracles: list[dict[RowName, MetricSet]]
    groups: list[list[dict[GroupRow, Estimate]]]


_build_index = ray.remote(build_index)


@ray.remote
def _sum_parts(parts: Sequence[Part], task: _Reduction) -> _PartSums:
    sums, moments = [], []
    for _, (influence,) in stream(parts, ["influence"]):
        sums.append(RankingSums.of(influence, task.dropped, task.bins))
        values = influence.astype(np.float64)
        moments.append(np.stack([values.mean(axis=1), values.std(axis=1)], axis=1))
    places = np.concatenate([part.places for part in parts])
    return _PartSums(merge(sums), places, np.concatenate(moments))


@ray.remote
def _scan(
    index: Index, name: str, masks: list[Mask], steps: slice, geometry: _Geometry, task: _Reduction
) -> dict[Mask, Scan]:
    """Masks of one order of dimensions, at some timesteps."""
    rows = task.rows(index, name)
    spectra = rows.spectra(rows.column(masks[0]), steps)
    chosen = choosing(index.member, task.config.repeats, task.seed)
    groups = memberships(distortion_groups(geometry.distortion), len(index.member))
    drops = {mask: chosen_drops(mask, task.bins, task.dropped) for mask in masks}
    return {mask: scan(spectra, mask, index.member, chosen, drops[mask], groups, {0, task.dropped}) for mask in masks}


@ray.remote
def _choose(index: Index, name: str, task: _Reduction, *scans: dict[Mask, Scan]) -> Choices:
    """What an attack's rows choose, with scores of all samples: other tasks look at them where they lie in memory."""
    rows = task.rows(index, name)
    joined = {mask: join([found[mask] for found in scans if mask in found]) for mask in rows.masks}
    return Choices.of(rows, joined, task.config)


@ray.remote
def _judge(
    index: Index, halving: int, geometry: _Geometry, odds: np.ndarray, task: _Reduction, *attacks: Choices
) -> list[list[Judged]]:
    """What each attack's choices, and the combined score, reach on one halving, all on the same resamples."""
    families = [[*some.scorers(geometry.features, index.member, task.seed).values()] for some in attacks]
    families.append([lambda halving, _, report: (0, odds[halving, report])])
    config = task.config
    return judge_halving(families, index.member, halving, config.bootstrap, config.confidence, task.seed)


@ray.remote
def _look_back(index: Index, task: _Reduction, *attacks: Choices) -> list[dict[RowName, MetricSet]]:
    return oracle_metrics(attacks, index.member, task.config, task.seed)


@ray.remote
def _look_into_group(
    index: Index, group: int, geometry: _Geometry, task: _Reduction, *attacks: Choices
) -> list[dict[GroupRow, Estimate]]:
    groups = distortion_groups(geometry.distortion)
    return group_aurocs(attacks, groups[group], index.member, task.config, task.seed)


@ray.remote
def _summarise(
    index: Index, name: str, geometry: _Geometry, choices: Choices, looked: _Looked, task: _Reduction
) -> AttackSummary:
    place = [*task.record.timesteps].index(name)
    return summarise_attack(
        name,
        choices,
        over_halvings([found[place] for found in looked.judged]),
        looked.oracles[place],
        [found[place] for found in looked.groups],
        index.member,
        index.sample_id,
        geometry.distortion,
        task.config,
    )


@ray.remote
def _fit(index: Index, halvings: Sequence[int], task: _Reduction) -> _Fits:
    chosen = choosing(index.member, task.config.repeats, task.seed)
    rows = [fitted_rows(half, task.seed, i) for i in halvings for half in (chosen[i], ~chosen[i])]
    fitted = [np.empty((len(some), task.features)) for some in rows]
    # The place of a sample's features in each fit; -1 is none.
    target = np.full((len(rows), len(index.member)), -1, dtype=np.int32)
    for wanted, to in zip(rows, target, strict=True):
        to[wanted] = np.arange(len(wanted))
    floors = []
    for part, spectra in stream(index.parts, list(task.record.timesteps)):
        sums = task.group_sums(spectra)
        floors.append(least_positive(sums))
        for some, to in zip(fitted, target[:, part.places], strict=True):
            some[to[to >= 0]] = sums[to >= 0]
    floor = np.min(floors, axis=0)
    for some in fitted:
        some[:] = log_features(some, floor)
    models = [LogOdds.fit(some, index.member[wanted], task.singles) for some, wanted in zip(fitted, rows, strict=True)]
    return _Fits(floor, list(zip(models[::2], models[1::2], strict=True)))


@ray.remote
def _score(index: Index, task: _Reduction, *fits: _Fits) -> np.ndarray:
    """The combined score of all samples on each halving, by the classifier of the half that a sample is not in."""
    models = [pair for some in fits for pair in some.models]
    chosen = choosing(index.member, task.config.repeats, task.seed)
    odds = np.empty(chosen.shape)
    for part, spectra in stream(index.parts, list(task.record.timesteps)):
        logs = log_features(task.group_sums(spectra), fits[0].floor)
        for row, inside, (one, other) in zip(odds, chosen[:, part.places], models, strict=True):
            row[part.places] = np.where(inside, other.scores(logs), one.scores(logs))
    return odds


@ray.remote
def _combine(index: Index, odds: np.ndarray, judged: Judged, task: _Reduction) -> Combined:
    chosen = choosing(index.member, task.config.repeats, task.seed)
    inference = infer_dataset(odds, chosen, index.member)
    return Combined(features=task.features, metrics=judged.metrics, delong=judged.delong, inference=inference)


@ray.remote
def _control(index: Index, geometry: _Geometry, task: _Reduction) -> tuple[BlindControl | None, BlindControl | None]:
    """What tells the sides apart without the denoiser, if the rows say it; and what their names tell."""
    some = controlled(index.member, task.seed)
    member, blind = index.member[some], None
    if names := task.record.blind:
        plain = np.empty((len(index.member), len(names)), np.float32)
        for part, (values,) in stream(index.parts, ["blind"]):
            plain[part.places] = values
        measured = np.column_stack([plain, geometry.features[:, :2], geometry.distortion])[some]
        blind = control(row_features((*names, *GEOMETRY), measured), member, task.config, task.seed)
    ids = index.sample_id.take(pa.array(some)).to_pylist()
    return blind, control(name_features(ids), member, task.config, task.seed)


@ray.remote
def _measure_leakage(index: Index, dimensions: slice, task: _Reduction) -> np.ndarray:
    """The AUROCs of some latent dimensions, of all samples that are looked at and without each group of them."""
    some = leakage_rows(index.member, task.seed)
    # The place of a sample among them; -1 is none.
    target = np.full(len(index.member), -1, dtype=np.int32)
    target[some] = np.arange(len(some))
    vectors = np.empty((len(some), len(range(task.record.dimensions)[dimensions])), dtype=np.float16)
    for part, (leakage,) in stream(index.parts, ["leakage"]):
        to = target[part.places]
        vectors[to[to >= 0]] = leakage[:, dimensions][to >= 0]
    return jackknife(vectors, index.member[some], task.seed)


def _slices(count: int, most: int, fewest: int = 1) -> list[slice]:
    return [slice(some[0], some[-1] + 1) for some in _split(range(count), most, fewest)]


def _start_attack(
    index: ray.ObjectRef, samples: int, name: str, geometry: ray.ObjectRef, task: _Reduction
) -> ray.ObjectRef:
    """The choices of one attack, from scans of as many timesteps as a task may hold."""
    steps = 1 if name in task.config.average else len(task.record.timesteps[name])
    orders = [[Mask.LOWEST, Mask.HIGHEST], [Mask.RANDOM]]
    if task.record.config.masks.ranking is not None:
        orders.append([Mask.GLOBAL])
    scans = [
        _scan.remote(index, name, masks, some, geometry, task)
        for masks in orders
        for some in _slices(steps, MEMORY // (4 * samples * task.bins))
    ]
    return _choose.remote(index, name, task, *scans)


def _start_combined(index: ray.ObjectRef, samples: int, task: _Reduction) -> ray.ObjectRef:
    """The combined score, from fits of as many halvings as a task may hold."""
    halvings = _split(range(task.config.repeats), MEMORY // (8 * min(2 * FITTED, samples) * task.features))
    fits = [_fit.remote(index, some, task) for some in halvings]
    return _score.remote(index, task, *fits)


def _look(
    index: ray.ObjectRef,
    geometry: ray.ObjectRef,
    groups: int,
    attacks: list[ray.ObjectRef],
    odds: ray.ObjectRef,
    task: _Reduction,
) -> _Looked:
    """Look at the choices of all attacks: a task for each set of resamples."""
    judged = [_judge.remote(index, halving, geometry, odds, task, *attacks) for halving in range(task.config.repeats)]
    oracles = _look_back.remote(index, task, *attacks)
    grouped = [_look_into_group.remote(index, group, geometry, task, *attacks) for group in range(groups)]
    return _Looked(ray.get(judged), ray.get(oracles), ray.get(grouped))


def _geometry(
    sums: list[_PartSums], measured: np.ndarray, record: RunRecord
) -> tuple[_Geometry, DistortionEstimate | None]:
    moments = np.empty((len(measured), 2))
    for found in sums:
        moments[found.places] = found.moments
    distortion, estimate = _distortion(measured, moments[:, 0], record)
    # An estimate says nothing that the mean influence does not.
    return _Geometry(geometry_features(moments[:, 0], moments[:, 1], measured), distortion), estimate


def _distortion(
    measured: np.ndarray, influence_mean: np.ndarray, record: RunRecord
) -> tuple[np.ndarray, DistortionEstimate | None]:
    """The distortion of every sample, estimated if it was not measured; only what was measured if an option is off."""
    config = record.config.geometry
    off = "off" in (config.influence, distortion_estimator(config, record.dimensions))
    if off or np.isfinite(measured).all():
        return measured, None
    return complete_distortion(measured, distortion_bound(influence_mean, record.dimensions))


def _stability(measured: np.ndarray, probes: int) -> Stability | None:
    measured = measured[np.isfinite(measured).all(axis=1)]
    if not len(measured):
        return None
    correlation, overlap = measured.mean(axis=0, dtype=np.float64)
    return Stability(correlation=correlation, overlap=overlap, probes=probes)


def _read_index(run: RunDirectory, record: RunRecord, partial: bool) -> tuple[ray.ObjectRef, Index, dict[str, int]]:
    """The index of the run's rows, and its rejects by reason."""
    files, plan = run.parts(), run.plan()
    if not files:
        raise RunError(f"{run.root} has no rows yet; run the audit first")
    rejects, reject_parts = run.read_rejects(plan)
    reference = _build_index.remote(files, plan, list(rejects), reject_parts)
    index: Index = ray.get(reference)
    index.balance.check_own()
    if not partial:
        index.balance.check_whole(record.samples)
    members, heldout = int(index.member.sum()), int((~index.member).sum())
    if min(members, heldout) < FEWEST:
        raise RunError(f"{run.root} has rows of {members} members and {heldout} held-out; {FEWEST} of each are needed")
    return reference, index, by_reason(rejects[sample_id] for sample_id in index.rejected)


def reduce_run(run: RunDirectory, config: AnalysisConfig, owner: Ownership, partial: bool = False) -> Results:
    """Reduce the rows of a run to results.json, metrics.parquet and ranking.parquet, a set of their own.

    Needs a session (engine.session).

    Args:
        run: a run directory with run.json and samples/.
        config: how to reduce; it may differ from what run.json says.
        owner: of the run.
        partial: whether samples may be missing.

    Returns:
        What results.json holds.

    Raises:
        RunError: if samples are missing, if there are rows or rejects of others, if either side has fewer than FEWEST
            rows, or if another job has taken over the run.
    """
    record = run.read_record()
    task = _Reduction(record, config)
    reference, index, rejected = _read_index(run, record, partial)
    samples = len(index.member)
    most = MEMORY // (2 * min(2 * LEAKAGE_SIDE, samples))
    leaks = [_measure_leakage.remote(reference, some, task) for some in _slices(record.dimensions, most, BLOCKS)]
    sums: list[_PartSums] = ray.get(
        [_sum_parts.remote(parts, task) for parts in _split(index.parts, len(index.parts), BUNDLES)]
    )
    ranking = merge([found.ranking for found in sums])
    geometry, estimate = _geometry(sums, index.distortion, record)
    handed = ray.put(geometry)
    attacks = [_start_attack(reference, samples, name, handed, task) for name in record.timesteps]
    odds = _start_combined(reference, samples, task)
    controls = _control.remote(reference, handed, task)
    looked = _look(reference, handed, len(distortion_groups(geometry.distortion)), attacks, odds, task)
    combined = _combine.remote(reference, odds, over_halvings([found[-1] for found in looked.judged])[0], task)
    pending = [
        _summarise.remote(reference, name, handed, choices, looked, task)
        for name, choices in zip(record.timesteps, attacks, strict=True)
    ]
    jackknifed = np.concatenate(ray.get(leaks), axis=1)
    leakage = Leakage(
        attack=record.config.leakage.attack,
        timestep=record.config.leakage.timestep,
        correlation=correlate(ranking.influence / ranking.count, jackknifed, config.confidence),
    )
    summaries: list[AttackSummary] = ray.get(pending)
    blind, names = ray.get(controls)
    members, heldout = int(index.member.sum()), int((~index.member).sum())
    results = Results(
        fingerprint=record.fingerprint,
        inputs={name: record.science[name] for name in ("shards", "split", "target")},
        members=members,
        heldout=heldout,
        expected=record.samples,
        rejected=rejected,
        distortion_measured=int(np.isfinite(index.distortion).sum()),
        distortion_estimate=estimate,
        stability=_stability(index.stability, record.config.geometry.probes),
        repeats=config.repeats,
        bootstrap=config.bootstrap,
        confidence=config.confidence,
        headline=tuple(row for summary in summaries for row in summary.headline),
        paper=tuple(row for summary in summaries for row in summary.paper),
        combined=ray.get(combined),
        blind=blind,
        names=names,
        relative=relate_run(run, reference, config),
        leakage=leakage,
        by_timestep=tuple(point for summary in summaries for point in summary.by_timestep),
        by_drop=tuple(point for summary in summaries for point in summary.by_drop),
        by_bin=tuple(point for summary in summaries for point in summary.by_bin),
        by_distortion=tuple(group for summary in summaries for group in summary.by_distortion),
        roc=tuple(point for summary in summaries for point in summary.roc),
        at_risk=tuple(summaries[0].at_risk),
        highest_heldout=tuple(summaries[0].highest_heldout),
        warnings=tuple(level_warnings(heldout)),
        versions=record.versions,
    )
    tables = {
        METRICS: pa.concat_tables([summary.grid for summary in summaries]),
        RANKING: ranking_table(ranking, record.latent_shape, jackknifed[0]),
    }
    write_reduction(owner, results.model_dump_json(indent=1).encode(), tables)
    return results
