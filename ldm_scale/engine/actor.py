"""What a worker of the pool is: a target on its device, and decoded images into rows or into influences.

It loads what a worker needs, and nothing that only the driver does.
"""

import threading
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ldm_scale.auditor import AuditedBatch, Auditor, Calibration
from ldm_scale.config.audit import AuditConfig
from ldm_scale.device.transfer import Arriving
from ldm_scale.engine import telemetry
from ldm_scale.engine.blame import blamed
from ldm_scale.errors import RunError
from ldm_scale.files.rundir import RunRecord
from ldm_scale.schema import REJECT, as_array, as_pixels
from ldm_scale.targets.execution import Execution

INFLUENCES = pa.schema([("sample_id", pa.string()), ("influence", pa.list_(pa.float32()))])


def execution_of(config: AuditConfig) -> Execution:
    """How the denoiser of an audit is run."""
    return Execution(config.precision, config.compute.compile, config.compute.channels_last)


def load_auditor(record: RunRecord, device: str, calibration: Calibration | None = None) -> Auditor:
    """An auditor for an actor of the pool.

    Raises:
        RunError: The weights or packages on the actor's node are not those that the run began with.
    """
    # It imports diffusers, which takes seconds that a simulated auditor has no use for.
    from ldm_scale.targets.weights import fetch_weights

    if device == "cpu":
        # No more threads than the CPUs it reserves: those of several auditors would only contend.
        torch.set_num_threads(max(1, int(record.config.compute.cpus_per_actor)))
    config = record.config
    began, found = (some.get("packages") for some in (record.science, config.science()))
    if found != began:
        raise RunError(f"packages that add to ldm_scale are {found} on this node; the run began with {began}")
    weights = fetch_weights(config.target, config.lora, config.lora_scale)
    weights.check(record.science)
    return Auditor(weights.load(device, config.images.size, execution_of(config)), config, calibration)


class Actor(ABC):
    """Takes batches of decoded images in, and hands on one table for each.

    Ray calls it from two threads: while one batch computes, the next one is on its way to the device.
    """

    def __init__(self, auditor: Auditor, image_size: int) -> None:
        self._auditor = auditor
        self._computing = threading.Lock()
        self._size = image_size

    def __call__(self, batch: pa.Table) -> pa.Table:
        with blamed():
            good, tables = self._split(batch)
            if len(good):
                arriving = self._auditor.load(as_pixels(good["pixels"], self._size))
                with self._computing:
                    tables += self._compute(good, arriving)
            return pa.concat_tables(tables, promote_options="default")

    @abstractmethod
    def _split(self, batch: pa.Table) -> tuple[pa.Table, list[pa.Table]]:
        """The samples that can be computed, and tables of what is handed on for the others."""

    @abstractmethod
    def _compute(self, good: pa.Table, arriving: Arriving) -> list[pa.Table]:
        """Tables of what is handed on for the samples that can be computed; no two calls overlap."""


class AuditorActor(Actor):
    """Turns decoded images into rows; rejected samples pass through with a reason."""

    def __init__(self, record: RunRecord, device: str, image_size: int, calibration: Calibration) -> None:
        super().__init__(load_auditor(record, device, calibration), image_size)

    def _split(self, batch: pa.Table) -> tuple[pa.Table, list[pa.Table]]:
        bad = batch.filter(batch["reject"].is_valid())
        rejected = pa.table([bad["sample_id"], bad["stage"], bad["reject"]], schema=REJECT)
        decoded = batch.filter(batch["reject"].is_null())
        refusals = pa.array(list(map(self._refusal, *_columns(decoded, "captions", "label", "flaws"))), pa.string())
        refused = _rejects(decoded["sample_id"].filter(refusals.is_valid()), "condition", refusals.drop_null())
        return decoded.filter(refusals.is_null()), [rejected, refused]

    def _refusal(self, captions: list[str], label: int | None, flaws: str) -> str | None:
        """Why the target cannot take a sample, with what is wrong with its caption or label if that is known."""
        reason = self._auditor.refusal(next(iter(captions), None), label)
        return f"{reason} ({flaws})" if reason and flaws else reason

    def _compute(self, good: pa.Table, arriving: Arriving) -> list[pa.Table]:
        audited = self._auditor.audit(arriving.wait(), *_columns(good, "sample_id", "captions", "label"))
        telemetry.audited(audited.cost)
        if torch.cuda.is_initialized():
            telemetry.gpu_memory(torch.cuda.max_memory_allocated(), torch.cuda.mem_get_info()[1])
        broken = pa.array(map(bool, audited.faults), pa.bool_())
        reasons = pa.array([f"a number of {fault} is not finite" for fault in audited.faults if fault], pa.string())
        rejected = _rejects(good["sample_id"].filter(broken), "audit", reasons)
        return [_rows(good, audited).filter(pc.invert(broken)), rejected]


class CalibrationActor(Actor):
    """Turns decoded images into their influences, estimates of a sample in one list.

    What cannot be measured is left for the audit to reject.
    """

    def __init__(self, record: RunRecord, device: str, image_size: int) -> None:
        super().__init__(load_auditor(record, device), image_size)

    def _split(self, batch: pa.Table) -> tuple[pa.Table, list[pa.Table]]:
        return batch.filter(batch["reject"].is_null()), [INFLUENCES.empty_table()]

    def _compute(self, good: pa.Table, arriving: Arriving) -> list[pa.Table]:
        ids = good["sample_id"].to_pylist()
        estimates = self._auditor.calibrate(arriving.wait(), ids).swapaxes(0, 1).reshape(len(ids), -1)
        pairs = zip(ids, estimates, strict=True)
        rows = [{"sample_id": key, "influence": values} for key, values in pairs if np.isfinite(values).all()]
        return [pa.Table.from_pylist(rows, schema=INFLUENCES)]


def _columns(table: pa.Table, *names: str) -> list[list[Any]]:
    return [table[name].to_pylist() for name in names]


def _rejects(sample_ids: pa.ChunkedArray, stage: str, reasons: pa.Array | pa.ChunkedArray) -> pa.Table:
    return pa.table([sample_ids, pa.repeat(stage, len(sample_ids)), reasons], schema=REJECT)


def _fixed(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    flat = values.reshape(len(values), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel(), kind), flat.shape[1])


def _measured(values: np.ndarray) -> pa.Array:
    """A number for each sample, null if it was not measured."""
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
            "blind": _fixed(np.concatenate([as_array(good, "plain"), audited.latent], axis=1), pa.float32()),
            **{name: _fixed(values, pa.float32()) for name, values in audited.spectra.items()},
        }
    )
