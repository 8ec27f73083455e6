"""How the audit's graph scales: the real one, on pretended GPUs, with auditors that only wait."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from ldm_scale.benchmarks.lines import SAMPLES, Line
from ldm_scale.benchmarks.options import ScaleBenchmarkConfig
from ldm_scale.benchmarks.pictures import make_picture, make_shards
from ldm_scale.benchmarks.simulated import DONE, waiting
from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.base import DEMO, build
from ldm_scale.engine.actor import AuditorActor
from ldm_scale.engine.audit import compute_rows
from ldm_scale.engine.plan import plan_audit
from ldm_scale.engine.session import check_local, session, whole_pool
from ldm_scale.files.ownership import own
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location, read_table
from ldm_scale.inputs import check_inputs
from ldm_scale.terminal import say

# Samples of a pair of shards, and pixels of the side of the one picture that they hold.
PAIR, SIDE = 1000, 32
# Seconds that actors may take to start: they share this machine's CPUs.
STARTING = 600


def run_graph(config: AuditConfig, actor: type[AuditorActor]) -> RunDirectory:
    """Commit what such auditors make of all samples through the audit's own graph; needs a connected Ray."""
    run = RunDirectory(Location.of(config.out))
    plan = plan_audit(check_inputs(config), run)
    run.begin(plan.record)
    with own(run.root, say) as owner:
        compute_rows(plan, run, owner, actor, plan.record.schema.append(pa.field(DONE, pa.float64())))
    return run


def steady_rate(run: RunDirectory) -> float:
    """Samples/s that auditors were done with, from 30% of the samples to 90%.

    By their own times: commits wait for writers to start, and then catch up faster than auditors work.
    """
    table = pa.concat_tables(read_table(part, [DONE]) for part in run.parts())
    times, counts = np.unique(table[DONE].to_numpy(), return_counts=True)
    done = np.cumsum(counts)
    first, last = np.searchsorted(done, (0.3 * done[-1], 0.9 * done[-1]))
    return float((done[last] - done[first]) / (times[last] - times[first]))


def _measure(config: ScaleBenchmarkConfig, auditors: int, seconds: float) -> Line:
    samples = auditors * config.batches * config.batch_size
    compute = {
        "gpus": (auditors, auditors),
        # They only wait: the machine's CPUs are the readers' and decoders'.
        "cpus_per_actor": 0.01,
        "batch_size": config.batch_size,
        "rows_per_part": config.rows_per_part,
    }
    with tempfile.TemporaryDirectory() as folder:
        out, shards = Path(folder) / "run", Path(folder) / "shards"
        make_shards(Location.of(shards), samples, 2 * -(-samples // PAIR), [make_picture(0, SIDE)])
        values = {"out": str(out), "shards": str(shards), "target": str(DEMO / "target"), "compute": compute}
        rate = steady_rate(run_graph(build(AuditConfig, values), waiting(seconds)))
    note = f"{samples} samples" + ("" if seconds else "; auditors do not wait: the most that the graph does here")
    bound = auditors * config.batch_size / seconds if seconds else None
    return Line("scale", f"{auditors} auditors", rate, SAMPLES, bound=bound, note=note)


def run_scale_benchmark(config: ScaleBenchmarkConfig) -> Iterator[Line]:
    """Samples a second by the size of the pool, beside those of auditors who never wait for the graph.

    The real graph on pretended GPUs of a Ray of this process's own, pool by pool, then the largest without waiting.

    Raises:
        UsageError: RAY_ADDRESS names another Ray: its GPUs would not be pretended.
    """
    check_local("the benchmark pretends GPUs on")
    with session(num_gpus=max(config.fake_gpus)), whole_pool(STARTING):
        for auditors in config.fake_gpus:
            yield _measure(config, auditors, config.batch_seconds)
        yield _measure(config, max(config.fake_gpus), 0)
