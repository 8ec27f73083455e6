"""The end of the audit's graph: rows and rejects into the run directory, in CPU tasks that know nothing of torch."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from ray.data import Dataset

from ldm_scale.engine import telemetry
from ldm_scale.engine.blame import blamed
from ldm_scale.files.ownership import Claim
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.schema import REJECT, split_id


def commit_stream(
    audited: Dataset, run: RunDirectory, schema: pa.Schema, part: int, claim: Claim
) -> Iterator[dict[str, Any]]:
    """Commit rows and rejects as they come, so many a part, by a claim's number; yields each part's counts by shard."""
    reject_schema = REJECT.with_metadata(schema.metadata)

    # Ray's dashboard shows this name.
    def commit_rows(batch: pa.Table) -> pa.Table:
        with blamed():
            rejects = batch.filter(batch["reason"].is_valid()).select(REJECT.names).cast(reject_schema)
            # Of a batch without rows there are not even their columns.
            found = batch.filter(batch["reason"].is_null())
            rows = found.select(schema.names).cast(schema) if len(found) else schema.empty_table()
            with telemetry.timed("commit"):
                claim.check()
                run.commit(rows, rejects, claim.number)
            telemetry.committed(rows, rejects)
            return _counts(rows, rejects)

    commits = audited.map_batches(
        commit_rows,
        batch_size=part,
        batch_format="pyarrow",
        # Without a share of a CPU, for which they would wait behind all readers that wait for one.
        num_cpus=0,
    )
    # Without prefetching, so that progress is shown as it is made.
    for counts in commits.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from counts.to_pylist()


def _counts(rows: pa.Table, rejects: pa.Table) -> pa.Table:
    """How many there are of each shard."""
    ids = (table["sample_id"].to_pylist() for table in (rows, rejects))
    counted, refused = (Counter(split_id(key)[0] for key in keys) for keys in ids)
    stems = sorted(counted | refused)
    columns = [stems, [counted[stem] for stem in stems], [refused[stem] for stem in stems]]
    return pa.table(columns, names=["shard", "rows", "rejects"])
