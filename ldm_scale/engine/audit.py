"""The audit's Ray graph: shards -> decoded images -> one fused auditor pool -> committed rows -> reducer -> report."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import pyarrow as pa

from ldm_scale.analysis.results import Results
from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.published import Procedure
from ldm_scale.costs.briefing import briefing
from ldm_scale.data.task import ReadTask
from ldm_scale.engine.actor import AuditorActor, execution_of
from ldm_scale.engine.batch import settle_batch
from ldm_scale.engine.calibrate import calibrate
from ldm_scale.engine.commit import commit_stream
from ldm_scale.engine.plan import AuditPlan, plan_audit
from ldm_scale.engine.pool import audit_images, find_device, plan_pool, pool_size
from ldm_scale.engine.progress import Progress, reported
from ldm_scale.engine.reading import stream_images
from ldm_scale.engine.session import session
from ldm_scale.errors import RunError, UsageError
from ldm_scale.files.ownership import Ownership, own
from ldm_scale.files.rundir import RunDirectory, RunRecord
from ldm_scale.files.storage import Location
from ldm_scale.inputs import Inputs, check_inputs, has_both_sides
from ldm_scale.targets.execution import Execution
from ldm_scale.terminal import say

# Reasons of rejects, most frequent first, that a failed run names.
REASONS_NAMED = 3


def run_audit(config: AuditConfig, procedure: Procedure | None = None) -> Results:
    """Audit to the end: rows, results and report in `config.out`; an interrupted audit of the same kind is resumed.

    Args:
        config: of the audit.
        procedure: the authors', if the audit is to follow it: the report says what departs from it.

    Raises:
        UsageError: The inputs cannot be used, there are no held-out samples, or another job has the run directory.
        RunError: The run could not be finished.
    """
    return audit_inputs(check_inputs(config, procedure=procedure))


def audit_inputs(inputs: Inputs) -> Results:
    """As `run_audit`, of what is read and checked already."""
    if not has_both_sides(inputs):
        raise UsageError(f"{inputs.folder}: there are no held-out samples; `ldm-scale audit` says what can be said")
    config = inputs.config
    with audited(inputs) as (run, owner):
        if config.reference is not None:
            run_audit(config.of_reference())
        # Not before there are rows: what they load is none of the start's business.
        from ldm_scale.engine.reduce import reduce_run
        from ldm_scale.report.page import write_report

        results = reduce_run(run, config.analysis, owner)
        write_report(run, owner)
    return results


@contextmanager
def audited(inputs: Inputs) -> Iterator[tuple[RunDirectory, Ownership]]:
    """A run whose rows are all there, owned for the length of a block."""
    config = inputs.config
    run = RunDirectory(Location.of(config.out))
    run.check_free(inputs.fingerprint, inputs.science)
    run.root.check_place()
    with session():
        device = find_device(config.compute)
        execution_of(config).check(device)
        Execution(config.geometry.precision).check(device, "geometry.precision")
        inputs, batch = settle_batch(inputs, run)
        plan = plan_audit(inputs, run)
        for line in ("audit", *briefing(inputs, plan.record, len(plan.tasks), batch)):
            say(line)
        run.begin(plan.record)
        with own(run.root, say) as owner:
            if split := plan.split():
                owner.check()
                run.keep_split(split)
            compute_rows(plan, run, owner, AuditorActor, plan.record.schema)
            yield run, owner


def _incomplete(plan: AuditPlan, done: Mapping[str, int]) -> list[ReadTask]:
    """The shards of which fewer samples are done than are wanted."""
    expected = plan.expected()
    return [task for task in plan.tasks if done.get(task.shard.stem, 0) < expected[task.shard.stem]]


def compute_rows(
    plan: AuditPlan, run: RunDirectory, owner: Ownership, actor: type[AuditorActor], schema: pa.Schema
) -> None:
    """Commit the rows (of this schema) and rejects that a run still lacks, made by a pool of such actors.

    Raises:
        RunError: Too many samples are rejected, or some are missing in the end.
    """
    record, compute = plan.record, plan.record.config.compute
    retry = record.config.retry_rejects
    held = run.holdings()
    done = held.counts(rejects=not retry)
    tasks = _incomplete(plan, done)
    keys = held.keys([task.shard.stem for task in tasks], rejects=not retry)
    tasks = [task.model_copy(update={"done": keys[task.shard.stem]}) for task in tasks]
    progress = Progress(plan.expected(), done, 0 if retry else len(held.rejects), time.monotonic)
    _check_rejects(progress.rejected, record, run)
    calibration = calibrate(plan, run, owner)
    left = record.samples - done.total()
    say(f"{run.root}: {record.samples:,} samples ({record.members:,} members), {left:,} left in {len(tasks):,} shards")
    if tasks:
        pool = plan_pool(compute, left)
        say(str(pool))
        with reported(progress, partial(pool_size, actor)):
            images = stream_images(tasks, record.config.images, plan.image_size, compute)
            audited = audit_images(images, pool, compute, actor, record, plan.image_size, calibration)
            for counts in commit_stream(audited, run, schema, compute.part(record.samples), owner.claim):
                owner.check()
                progress.add(**counts)
                _check_rejects(progress.rejected, record, run)
    if missing := [task.shard.name for task in _incomplete(plan, run.holdings().counts())]:
        raise RunError(f"{len(missing)} shards are incomplete after the run, the first is {missing[0]}; run it again")


def _check_rejects(rejected: int, record: RunRecord, run: RunDirectory) -> None:
    limit = record.config.max_reject_fraction
    if rejected > limit * record.samples:
        reasons = ", ".join(f"{count} {reason}" for reason, count in [*run.reject_counts().items()][:REASONS_NAMED])
        raise RunError(
            f"{rejected} of {record.samples} samples were rejected, more than max_reject_fraction = {limit}; "
            f"most often {reasons}; see {record.config.out}/rejects, and --retry-rejects once their cause is fixed"
        )
