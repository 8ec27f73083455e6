"""Audits of the tiny target, and their rows."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ldm_scale.analysis.results import Results
from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.base import build
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import read_table

ATTACKS: dict[str, dict[str, object]] = {
    "sima": {"timesteps": [0, 50]},
    "loss": {"timesteps": [0, 50]},
    "pia": {"timesteps": [0, 50]},
    "pian": {"timesteps": [0, 50]},
    "secmi": {"timesteps": [0, 50], "step": 50},
    "pfami": {"timesteps": [50, 100], "crops": [0.9, 0.7]},
    "epsilon": {"timesteps": [0, 50]},
}

# One attack and no calibration set, where a test asks about neither.
BRIEF: dict[str, object] = {
    "attacks": {"sima": {"timesteps": [0, 50]}},
    "geometry": {"influence": "exact"},
    "masks": {"bins": 5},
}


def make_config(out: Path, shards: Path | str, target: Path | str, **changes: object) -> AuditConfig:
    values: dict[str, object] = {
        "out": str(out),
        "shards": str(shards),
        "target": str(target),
        "attacks": ATTACKS,
        "geometry": {"influence": "pooled", "probes": 2, "calibration": 12, "distortion_share": 0.5},
        "masks": {"bins": 5, "ranking": "calibration"},
        "analysis": {"bootstrap": 50, "repeats": 2},
        "compute": {"device": "cpu", "batch_size": 8, "actors": 1, "rows_per_part": 16},
    }
    return build(AuditConfig, values | changes)


def read_rows(out: Path) -> pa.Table:
    parts = [pq.read_table(path) for path in sorted((out / "samples").glob("*.parquet"))]
    return pa.concat_tables(parts).sort_by("sample_id")


def column(table: pa.Table, name: str) -> np.ndarray:
    values = table[name].combine_chunks()
    nested = pa.types.is_fixed_size_list(values.type)
    return values.flatten().to_numpy().reshape(len(table), -1) if nested else values.to_numpy(zero_copy_only=False)


def assert_same_rows(found: pa.Table, expected: pa.Table) -> None:
    """Equal to the tolerance of float32 sums; a few dimensions may swap bins where two influences all but tie."""
    assert found["sample_id"].to_pylist() == expected["sample_id"].to_pylist()
    assert found["member"].to_pylist() == expected["member"].to_pylist()
    np.testing.assert_allclose(column(found, "distortion"), column(expected, "distortion"), rtol=1e-3)
    np.testing.assert_allclose(column(found, "influence"), column(expected, "influence"), rtol=0, atol=4e-3)
    # Some |S_i| are nearly zero, the noise predictions they come from are about one: float32's error is theirs.
    np.testing.assert_allclose(column(found, "leakage"), column(expected, "leakage"), rtol=2e-3, atol=2e-6)
    for name in ("stability_correlation", "stability_overlap"):
        np.testing.assert_allclose(column(found, name), column(expected, name), atol=0.05)
    # What no model says is the same; the latent's mean may be near zero.
    np.testing.assert_allclose(column(found, "blind"), column(expected, "blind"), rtol=1e-3, atol=1e-5)
    assert found.column_names == expected.column_names
    for name in (name for name in expected.column_names[7:] if name != "blind"):
        ours, theirs = column(found, name).reshape(-1, 2, 5), column(expected, name).reshape(-1, 2, 5)
        np.testing.assert_allclose(ours.sum(2), theirs.sum(2), rtol=1e-3, err_msg=name)
        assert np.isclose(ours, theirs, rtol=2e-3).mean() > 0.98, name


def raw_rows(run: RunDirectory) -> pa.Table:
    """The rows of all parts, some of them twice, perhaps."""
    return pa.concat_tables([read_table(part) for part in run.parts()]).sort_by("sample_id")


def distinct(rows: pa.Table) -> pa.Table:
    return rows.take(np.unique(rows["sample_id"].to_numpy().astype(str), return_index=True)[1])


def assert_whole(run: RunDirectory, undisturbed: RunDirectory) -> None:
    """Each sample counts once in the results, and its row is that of a run where nothing died."""
    expected = raw_rows(undisturbed)
    assert_same_rows(distinct(raw_rows(run)), expected)
    results = Results.model_validate_json((run.root / "results.json").read_bytes())
    assert (results.members + results.heldout, results.expected, results.rejected) == (len(expected),) * 2 + ({},)
