"""A small run of made-up rows: two shards of members and two of held-out samples."""

import zlib

import numpy as np
import pyarrow as pa

from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.base import build
from ldm_scale.files.parts import Expected
from ldm_scale.files.rundir import RunDirectory, RunRecord
from ldm_scale.files.storage import Location
from ldm_scale.schema import REJECT

SIDES = {"m-0": True, "m-1": True, "h-0": False, "h-1": False}
EACH = 8
SAMPLES = EACH * len(SIDES)


def make_record(fingerprint: str = "mine", **values: object) -> RunRecord:
    content = {
        "out": "o",
        "attacks": {"sima": {}},
        "masks": {"bins": 5},
        "leakage": {"attack": "sima", "timestep": 0},
        "analysis": {"repeats": 2, "bootstrap": 20},
    }
    return RunRecord(
        fingerprint=fingerprint,
        science=dict.fromkeys(("shards", "split", "target"), "made up"),
        config=build(AuditConfig, content | values),
        latent_shape=(1, 2, 2),
        timesteps={"sima": (0, 10)},
        expected=Expected(
            members={stem: EACH for stem, member in SIDES.items() if member},
            heldout={stem: EACH for stem, member in SIDES.items() if not member},
        ),
        versions={},
    )


RECORD = make_record()
REJECTS = REJECT.with_metadata(RECORD.schema.metadata)


def ids_of(stem: str, count: int = EACH) -> list[str]:
    return [f"{stem}/{number}" for number in range(count)]


def make_rows(ids: list[str], member: bool | list[bool], schema: pa.Schema = RECORD.schema) -> pa.Table:
    """Random rows of these samples, which the first of them decides."""
    rng = np.random.default_rng(zlib.crc32(ids[0].encode()))
    columns = [pa.array(ids, pa.string()), pa.array(member if isinstance(member, list) else [member] * len(ids))]
    for kind in schema.types[2:]:
        size = kind.list_size if pa.types.is_fixed_size_list(kind) else 1
        values = pa.array(rng.uniform(0.5, 2, size * len(ids)).astype(np.float32))
        if size > 1:
            values = pa.FixedSizeListArray.from_arrays(values.cast(kind.value_type), size)
        columns.append(values.cast(kind))
    return pa.table(columns, schema=schema)


def make_rejects(*ids: str, schema: pa.Schema = REJECTS) -> pa.Table:
    rows = [{"sample_id": sample_id, "stage": "decode", "reason": "no image"} for sample_id in ids]
    return pa.Table.from_pylist(rows, schema=schema)


def commit(run: RunDirectory, rows: pa.Table) -> Location:
    """Commit rows; returns their part."""
    before = run.parts()
    run.commit(rows, REJECT.empty_table())
    (part,) = [part for part in run.parts() if part not in before]
    return part


def make_run(root: Location, record: RunRecord = RECORD) -> RunDirectory:
    """A run that is complete, with a part for each shard."""
    run = RunDirectory(root)
    run.begin(record)
    for stem, member in SIDES.items():
        commit(run, make_rows(ids_of(stem), member, record.schema))
    return run
