"""The calibration set: what a few hundred samples say of all samples' influences, measured once before the rows."""

import threading

import numpy as np
import pyarrow as pa
import torch

from ldm_scale.auditor import Calibration
from ldm_scale.config import CALIBRATED
from ldm_scale.engine.plan import Plan
from ldm_scale.engine.pool import audit_images, load_auditor, plan_pool
from ldm_scale.engine.progress import say
from ldm_scale.engine.reading import ShardTask, as_pixels, stream_images
from ldm_scale.errors import RunError
from ldm_scale.geometry.pooled import Profile
from ldm_scale.randomness import keyed_generator
from ldm_scale.rundir import CalibrationRecord, RunDirectory, RunRecord

INFLUENCES = pa.schema([("sample_id", pa.string()), ("influence", pa.list_(pa.float32()))])


def calibrate(plan: Plan, run: RunDirectory) -> Calibration:
    """What the auditors must know of all samples: read back where the run has it, measured where it has not.

    Raises RunError where fewer than two samples of the calibration set could be measured.
    """
    config = plan.record.config
    pooled, ranked = config.geometry.influence == "pooled", config.masks.ranking == CALIBRATED
    if not pooled and not ranked:
        return Calibration(ranking=plan.ranking)
    record = run.read_calibration()
    if record is None:
        record = _measure(plan)
        run.write_calibration(record)
    mean = np.array(record.mean, dtype=np.float64)
    profile = Profile(torch.from_numpy(mean).float(), record.variance) if pooled else None
    return Calibration(profile, mean if ranked else plan.ranking)


def draw_calibration(tasks: tuple[ShardTask, ...], wanted: dict[str, int], count: int, seed: int) -> list[ShardTask]:
    """About `count` samples, drawn by key from as few shards as hold that many, and these drawn by their stems.

    wanted: samples of each shard, by its stem. The order of the tasks does not matter.
    """
    chosen: list[ShardTask] = []
    held = 0
    for task in sorted(tasks, key=lambda task: keyed_generator(seed, task.shard.stem, "calibration").random()):
        chosen.append(task)
        held += wanted[task.shard.stem]
        if held >= count:
            break
    return [task.model_copy(update={"share": count / held, "seed": seed}) for task in chosen]


def _measure(plan: Plan) -> CalibrationRecord:
    config = plan.record.config
    tasks = draw_calibration(plan.tasks, plan.expected(), config.geometry.calibration, config.seed)
    images = stream_images(tasks, config.images, plan.image_size, config.compute)
    pool = plan_pool(config.compute, config.geometry.calibration)
    measured = audit_images(images, pool, config.compute, CalibrationActor, plan.record, plan.image_size)
    # A few hundred rows; sorted by id, so that sums do not depend on which actor was first.
    table = pa.concat_tables(list(measured.iter_batches(batch_format="pyarrow"))).sort_by("sample_id")
    if len(table) < 2:
        raise RunError(f"{len(table)} samples of the calibration set could be measured; raise geometry.calibration")
    influences = table["influence"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    profile = Profile.of(torch.from_numpy(influences.copy()).double(), config.geometry.probes)
    say(f"calibrated on {len(table)} samples: spread of influences about their mean {profile.variance**0.5:.3f} nats")
    return CalibrationRecord(samples=len(table), mean=tuple(profile.mean.tolist()), variance=profile.variance)


class CalibrationActor:
    """Turns decoded images into their influences; what cannot be measured is left for the audit to reject."""

    def __init__(self, record: RunRecord, device: str, image_size: int) -> None:
        self._computing = threading.Lock()
        self._auditor = load_auditor(record, device)
        self._size = image_size

    def __call__(self, batch: pa.Table) -> pa.Table:
        good = batch.filter(batch["reject"].is_null())
        rows = []
        if len(good):
            ids = good["sample_id"].to_pylist()
            arriving = self._auditor.load(as_pixels(good["pixels"], self._size))
            with self._computing:
                influences = self._auditor.calibrate(arriving.wait(), ids)
            pairs = zip(ids, influences, strict=True)
            rows = [{"sample_id": key, "influence": values} for key, values in pairs if np.isfinite(values).all()]
        return pa.Table.from_pylist(rows, schema=INFLUENCES)
