"""How long the reducer takes, and how much memory, on made-up rows of any number."""

import os
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import numpy as np
import psutil
import pyarrow as pa

from ldm_scale.benchmarks.lines import BYTES, ROWS, Line
from ldm_scale.benchmarks.memory import MOST, again_and_again, process_bytes
from ldm_scale.benchmarks.options import ReduceBenchmarkConfig
from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.base import build
from ldm_scale.engine.parallel import in_parallel
from ldm_scale.engine.reduce import reduce_run
from ldm_scale.engine.session import check_local, session
from ldm_scale.files.ownership import own
from ldm_scale.files.parts import Expected
from ldm_scale.files.reductions import publish
from ldm_scale.files.rundir import RunDirectory, RunRecord
from ldm_scale.files.storage import Location, encode_table
from ldm_scale.schema import BLIND, orders, row_schema, spectrum_column
from ldm_scale.terminal import say

PART = "reduce"
SHARD, FINGERPRINT = "made-up", "made up"


@contextmanager
def _workers() -> Iterator[dict[int, int]]:
    """The most bytes of each Ray worker below this process within the block, by its id, as workers come and go."""
    peaks: dict[int, int] = {}

    def look() -> None:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error, OSError, IndexError):  # it ended meanwhile
                if process.cmdline()[0].startswith("ray::"):
                    peaks[process.pid] = max(peaks.get(process.pid, 0), process_bytes(process.pid, MOST))

    with again_and_again(look, 0.5):
        yield peaks
    look()


def make_record(config: ReduceBenchmarkConfig, out: str) -> RunRecord:
    """The run.json of made-up rows."""
    values = {
        "out": out,
        "seed": config.seed,
        "attacks": {name: {} for name in config.attacks},
        "masks": {"bins": config.bins, "ranking": "calibration" if config.ranking else None},
        "leakage": {"attack": config.attacks[0], "timestep": 0},
        "analysis": config.analysis.model_dump(),
    }
    made_up = dict.fromkeys(("shards", "split", "target"), "made up")
    return RunRecord(
        fingerprint=FINGERPRINT,
        science=made_up,
        config=build(AuditConfig, values),
        latent_shape=(1, 1, config.dimensions),
        timesteps=dict.fromkeys(config.attacks, tuple(range(0, 10 * config.timesteps, 10))),
        expected=Expected(members={SHARD: config.rows // 2}, heldout={SHARD: config.rows - config.rows // 2}),
        versions={},
        blind=BLIND,
    )


def make_rows(config: ReduceBenchmarkConfig, part: int) -> pa.Table:
    """The rows of one part: log-normal statistics, the members' lower by a little in the upper half of the bins."""
    start = part * config.rows_per_part
    number = np.arange(start, min(start + config.rows_per_part, config.rows))
    rng = np.random.default_rng([config.seed, part])
    member = number % 2 == 1

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal((len(number), *shape), dtype=np.float32)

    def lists(values: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values[0].size)

    def spectra(level: np.ndarray) -> pa.Array:
        log = 0.5 * normal(config.timesteps, config.bins) + level
        log[:, :, config.bins // 2 :] -= np.float32(0.1) * member[:, None, None]
        return lists(np.exp(log))

    level = normal(1, 1)
    columns = {
        "sample_id": pa.array([f"{SHARD}/{i:09d}" for i in number]),
        "member": pa.array(member),
        "distortion": pa.array(normal(1)[:, 0]),
        "influence": lists((normal(config.dimensions) + level[:, 0]).astype(np.float16)),
        "stability_correlation": pa.array(np.full(len(number), 0.9, np.float32)),
        "stability_overlap": pa.array(np.full(len(number), 0.8, np.float32)),
        "leakage": lists(np.exp(normal(config.dimensions) - 0.1 * member[:, None]).astype(np.float16)),
        "blind": lists(normal(len(BLIND))),
    }
    for name in config.attacks:
        columns |= {spectrum_column(name, order): spectra(level) for order in orders(config.ranking)}
    steps, metadata = dict.fromkeys(config.attacks, config.timesteps), {"fingerprint": FINGERPRINT}
    schema = row_schema(config.dimensions, steps, config.bins, metadata, config.ranking, BLIND)
    return pa.table(columns).cast(schema)


def _write_part(run: RunDirectory, config: ReduceBenchmarkConfig, part: int) -> None:
    (run.root / "samples" / f"part-{part:06d}.parquet").replace(encode_table(make_rows(config, part)))


def run_reduce_benchmark(config: ReduceBenchmarkConfig) -> Iterator[Line]:
    """Write made-up rows and reduce them as a run's, on a Ray of this process's own: rows a second, and peak memory.

    Raises:
        UsageError: if RAY_ADDRESS names another Ray: the memory of its workers cannot be seen from here.
    """
    check_local("the benchmark measures")
    parts = -(-config.rows // config.rows_per_part)
    with tempfile.TemporaryDirectory() as folder, session():
        out = config.out or f"{folder}/run"
        run = RunDirectory(Location.of(out))
        record = make_record(config, out)
        run.check_free(record.fingerprint, record.science)
        run.begin(record)
        started = time.monotonic()
        with own(run.root, say) as owner:
            deque(in_parallel(partial(_write_part, run, config), range(parts), "made-up parts"), maxlen=0)
            made = time.monotonic()
            with _workers() as workers:
                results = reduce_run(run, config.analysis, owner)
            seconds = time.monotonic() - made
            publish(owner)
        rows, size = results.members + results.heldout, sum(file.size() for file in run.parts())
        note = f"{seconds:.0f} s; {rows} rows in {parts} parts, {size / 1e9:.2f} GB, made in {made - started:.0f} s"
        yield Line(PART, "reduction", rows / seconds, ROWS, note=note)
        yield Line(PART, "peak memory of the driver", process_bytes(os.getpid(), MOST) / 1e9, BYTES)
        largest, note = max(workers.values(), default=0), f"of {len(workers)}"
        yield Line(PART, "peak memory of the largest worker", largest / 1e9, BYTES, note=note)
