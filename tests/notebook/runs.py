"""Runs of made-up rows, reduced: one, and the same samples of a target that leaks more."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ldm_scale.benchmarks.options import ReduceBenchmarkConfig
from ldm_scale.benchmarks.reduce import make_record, make_rows
from ldm_scale.config.audit import AnalysisConfig
from ldm_scale.engine.reduce import reduce_run
from ldm_scale.files.ownership import own
from ldm_scale.files.reductions import publish
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location, encode_table

MADE_UP = ReduceBenchmarkConfig(
    rows=400, dimensions=12, attacks=("sima", "pfami"), timesteps=3, bins=5, rows_per_part=150,
    analysis=AnalysisConfig(repeats=2, bootstrap=50),
)  # fmt: skip


def write_rows(folder: Path, leak: float = 1.0, config: ReduceBenchmarkConfig = MADE_UP) -> RunDirectory:
    """A run with all its rows; the members' statistics of sima are multiplied by `leak`."""
    run = RunDirectory(Location.of(folder))
    run.begin(make_record(config, str(folder)))
    for part in range(-(-config.rows // config.rows_per_part)):
        rows = make_rows(config, part)
        factor = np.where(np.array(rows["member"]), np.float32(leak), np.float32(1))
        for name in ("sima", "sima_random"):
            lists = rows[name].combine_chunks()
            values = lists.flatten().to_numpy().reshape(len(rows), -1) * factor[:, None]
            rows = rows.set_column(
                rows.schema.get_field_index(name),
                rows.schema.field(name),
                pa.FixedSizeListArray.from_arrays(values.ravel(), lists.type.list_size),
            )
        (run.root / "samples" / f"part-{part:03d}.parquet").create(encode_table(rows))
    return run


def write_run(folder: Path, leak: float = 1.0, config: ReduceBenchmarkConfig = MADE_UP) -> RunDirectory:
    """The same, reduced. Needs the engine's stand-in for Ray."""
    run = write_rows(folder, leak, config)
    with own(run.root, pytest.fail) as owner:
        reduce_run(run, config.analysis, owner)
        publish(owner)
    return run
