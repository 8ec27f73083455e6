"""The audit's Ray graph: shards -> decoded images -> one fused auditor pool -> committed rows -> reducer -> report."""

import threading
import time
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from ray.data import Dataset

from ldm_scale.analysis.results import Results
from ldm_scale.auditor import AuditedBatch, Calibration
from ldm_scale.config import AuditConfig
from ldm_scale.engine import metrics
from ldm_scale.engine.briefing import briefing
from ldm_scale.engine.calibrate import calibrate
from ldm_scale.engine.commit import commit_stream
from ldm_scale.engine.plan import Plan, check_inputs, plan_audit
from ldm_scale.engine.pool import Pool, audit_images, execution_of, find_device, load_auditor, plan_pool, pool_size
from ldm_scale.engine.progress import Progress, say, told
from ldm_scale.engine.reading import ShardTask, as_pixels, stream_images
from ldm_scale.engine.reduce import reduce_run
from ldm_scale.engine.session import session
from ldm_scale.errors import RunError
from ldm_scale.ownership import Ownership, own
from ldm_scale.report.page import write_report
from ldm_scale.rundir import RunDirectory, RunRecord
from ldm_scale.schema import REJECT, row_schema
from ldm_scale.storage import Location
from ldm_scale.transfer import Arriving

# Reasons of rejects, most frequent first, that a failed run names.
REASONS_TOLD = 3


def run_audit(config: AuditConfig) -> Results:
    """Audit to the end: rows, results and report in `config.out`; an interrupted audit of the same kind is resumed.

    Raises UsageError for inputs that cannot be used, or while another job has the run directory, and RunError for a
    run that could not be finished.
    """
    inputs = check_inputs(config)
    run = RunDirectory(Location.of(config.out))
    run.check_free(inputs.fingerprint, inputs.science)
    with session():
        execution_of(config).check(find_device(config.compute))
        plan = plan_audit(inputs, run)
        for line in ("audit", *briefing(inputs, plan)):
            say(line)
        run.begin(plan.record)
        run.keep_split(plan.split())
        with own(run.root, say) as owner:
            compute_rows(plan, run, owner, AuditorActor)
            results = reduce_run(run, config.analysis)
            write_report(run)
    return results


def _remaining(plan: Plan, committed: dict[str, frozenset[str]]) -> list[ShardTask]:
    """The shards that are not complete, each with the keys that are."""
    expected = plan.expected()
    tasks = []
    for task in plan.tasks:
        done = committed.get(task.shard.stem, frozenset())
        if len(done) < expected[task.shard.stem]:
            tasks.append(task.model_copy(update={"done": done}))
    return tasks


def compute_rows(plan: Plan, run: RunDirectory, owner: Ownership, actor: "type[AuditorActor]") -> None:
    """Commit the rows and rejects that a run still lacks, made by a pool of such actors.

    Raises RunError where too many samples are rejected, or where some are missing in the end.
    """
    record = plan.record
    retry = record.config.retry_rejects
    committed = run.committed(rejects=not retry)
    tasks = _remaining(plan, committed)
    done = {stem: len(keys) for stem, keys in committed.items()}
    progress = Progress(plan.expected(), done, 0 if retry else len(run.rejects()), time.monotonic)
    _check_rejects(progress.rejected, record, run)
    calibration = calibrate(plan, run)
    left = record.samples - sum(done.values())
    say(f"{run.root}: {record.samples} samples ({record.members} members), {left} left in {len(tasks)} shards")
    if tasks:
        pool = plan_pool(record.config.compute, left)
        say(str(pool))
        with told(progress, partial(pool_size, actor)):
            audited = _audited(plan, tasks, pool, actor, calibration)
            commits = commit_stream(audited, run, _schema(record), record.config.compute, owner.number)
            for counts in commits:
                owner.check()
                progress.add(**counts)
                _check_rejects(progress.rejected, record, run)
    if missing := [task.shard.name for task in _remaining(plan, run.committed())]:
        raise RunError(f"{len(missing)} shards are incomplete after the run, the first is {missing[0]}; run it again")


def _check_rejects(rejected: int, record: RunRecord, run: RunDirectory) -> None:
    limit = record.config.max_reject_fraction
    if rejected > limit * record.samples:
        reasons = ", ".join(f"{count} {reason}" for reason, count in [*run.reject_counts().items()][:REASONS_TOLD])
        raise RunError(
            f"{rejected} of {record.samples} samples were rejected, more than max_reject_fraction = {limit}; "
            f"most often {reasons}; see {record.config.out}/rejects, and --retry-rejects once their cause is mended"
        )


def _audited(
    plan: Plan, tasks: list[ShardTask], pool: Pool, actor: "type[AuditorActor]", calibration: Calibration
) -> Dataset:
    """The stream of the tasks' rows and rejects."""
    record = plan.record
    images = stream_images(tasks, record.config.images, plan.image_size, record.config.compute)
    return audit_images(images, pool, record.config.compute, actor, record, plan.image_size, calibration)


def _schema(record: RunRecord) -> pa.Schema:
    steps = {name: len(timesteps) for name, timesteps in record.timesteps.items()}
    masks = record.config.masks
    metadata = {"fingerprint": record.fingerprint}
    return row_schema(record.dimensions, steps, masks.bins, metadata, masks.ranking is not None)


class AuditorActor:
    """Holds a target on its device and turns decoded images into rows; rejected samples pass through with a reason.

    Ray calls it from two threads: while one batch computes, the next one is on its way to the device.
    """

    def __init__(self, record: RunRecord, device: str, image_size: int, calibration: Calibration) -> None:
        self._computing = threading.Lock()
        self._auditor = load_auditor(record, device, calibration)
        self._size = image_size

    def __call__(self, batch: pa.Table) -> pa.Table:
        good = batch.filter(batch["reject"].is_null())
        bad = batch.filter(batch["reject"].is_valid())
        tables = [pa.table([bad["sample_id"], bad["stage"], bad["reject"]], schema=REJECT)]
        refusals = pa.array(list(map(self._refusal, *_columns(good, "caption", "label", "flaws"))), pa.string())
        tables.append(_rejects(good["sample_id"].filter(refusals.is_valid()), "condition", refusals.drop_null()))
        good = good.filter(refusals.is_null())
        if len(good):
            tables += self._audit(good)
        return pa.concat_tables(tables, promote_options="default")

    def _refusal(self, caption: str | None, label: int | None, flaws: str) -> str | None:
        """Why the target cannot take a sample, with what is wrong with its caption or label where that is known."""
        reason = self._auditor.refusal(caption, label)
        return f"{reason} ({flaws})" if reason and flaws else reason

    def _audit(self, good: pa.Table) -> list[pa.Table]:
        arriving = self._load(good)
        with self._computing:
            audited = self._measure(good, arriving)
            metrics.audited(audited.cost)
            if torch.cuda.is_initialized():
                metrics.gpu_memory(torch.cuda.max_memory_allocated(), torch.cuda.mem_get_info()[1])
        broken = good["sample_id"].filter(pa.array(~audited.finite))
        reasons = pa.repeat("a number is not finite", len(broken))
        return [_rows(good, audited).filter(pa.array(audited.finite)), _rejects(broken, "audit", reasons)]

    def _load(self, good: pa.Table) -> Arriving:
        return self._auditor.load(as_pixels(good["pixels"], self._size))

    def _measure(self, good: pa.Table, arriving: Arriving) -> AuditedBatch:
        return self._auditor.audit(arriving.wait(), *_columns(good, "sample_id", "caption", "label"))


def _columns(table: pa.Table, *names: str) -> list[list[Any]]:
    return [table[name].to_pylist() for name in names]


def _rejects(sample_ids: pa.ChunkedArray, stage: str, reasons: pa.Array | pa.ChunkedArray) -> pa.Table:
    return pa.table([sample_ids, pa.repeat(stage, len(sample_ids)), reasons], schema=REJECT)


def _fixed(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    flat = values.reshape(len(values), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel(), kind), flat.shape[1])


def _measured(values: np.ndarray) -> pa.Array:
    """A number for each sample, null where it was not measured."""
    return pa.array(values, pa.float32(), mask=np.isnan(values))


def _rows(good: pa.Table, audited: AuditedBatch) -> pa.Table:
    return pa.table(
        {
            "sample_id": good["sample_id"],
            "member": good["member"],
            "distortion": _measured(audited.distortion),
            "influence": _fixed(audited.influence.astype(np.float16), pa.float16()),
            "stability_correlation": _measured(audited.stability[:, 0]),
            "stability_overlap": _measured(audited.stability[:, 1]),
            "leakage": _fixed(audited.leakage.astype(np.float16), pa.float16()),
            **{name: _fixed(values, pa.float32()) for name, values in audited.spectra.items()},
        }
    )
