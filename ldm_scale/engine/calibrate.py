"""The calibration set: what a few hundred samples say of all samples' influences, measured once before the rows."""

import numpy as np
import pyarrow as pa
import torch

from ldm_scale.auditor import Calibration, calibration_copies
from ldm_scale.config.audit import CALIBRATED
from ldm_scale.data.task import ReadTask
from ldm_scale.engine.actor import CalibrationActor
from ldm_scale.engine.plan import AuditPlan
from ldm_scale.engine.pool import audit_images, plan_pool
from ldm_scale.engine.reading import stream_images
from ldm_scale.errors import RunError
from ldm_scale.files.ownership import Ownership
from ldm_scale.files.rundir import CalibrationRecord, RunDirectory
from ldm_scale.geometry.pooled import Profile, mean_profile, profile_variance
from ldm_scale.randomness import keyed_generator
from ldm_scale.terminal import say


def calibrate(plan: AuditPlan, run: RunDirectory, owner: Ownership) -> Calibration:
    """What the auditors must know of all samples: read back if the run has it, measured if not.

    Raises:
        RunError: Fewer than two samples of the calibration set could be measured.
    """
    config = plan.record.config
    pooled, ranked = config.geometry.influence == "pooled", config.masks.ranking == CALIBRATED
    if not pooled and not ranked:
        return Calibration(ranking=plan.ranking)
    record = run.read_calibration()
    if record is None:
        record = _measure(plan)
        owner.check()
        run.write_calibration(record)
    mean, profile = np.array(record.mean, dtype=np.float64), None
    if pooled:
        profile = Profile(torch.from_numpy(mean).float().reshape(plan.record.latent_shape), torch.tensor(record.filter))
    return Calibration(profile, mean if ranked else plan.ranking)


def draw_calibration(tasks: tuple[ReadTask, ...], wanted: dict[str, int], count: int, seed: int) -> list[ReadTask]:
    """About `count` samples, drawn by key from as few shards as hold that many, and these drawn by their stems.

    wanted: samples of each shard, by its stem. The order of the tasks does not matter.
    """
    chosen: list[ReadTask] = []
    held = 0
    for task in sorted(tasks, key=lambda task: keyed_generator(seed, task.shard.stem, "calibration").random()):
        chosen.append(task)
        held += wanted[task.shard.stem]
        if held >= count:
            break
    return [task.model_copy(update={"share": count / held, "seed": seed}) for task in chosen]


def _measure(plan: AuditPlan) -> CalibrationRecord:
    config = plan.record.config
    tasks = draw_calibration(plan.tasks, plan.expected(), config.geometry.calibration, config.seed)
    images = stream_images(tasks, config.images, plan.image_size, config.compute)
    pool = plan_pool(config.compute, config.geometry.calibration)
    measured = audit_images(images, pool, config.compute, CalibrationActor, plan.record, plan.image_size)
    # A few hundred rows; sorted by id, so that sums do not depend on which actor was first.
    table = pa.concat_tables(list(measured.iter_batches(batch_format="pyarrow"))).sort_by("sample_id")
    if len(table) < 2:
        raise RunError(f"{len(table)} samples of the calibration set could be measured; raise geometry.calibration")
    copies, probes, shape = calibration_copies(config.geometry), config.geometry.probes, plan.record.latent_shape
    influences = table["influence"].combine_chunks().flatten().to_numpy().reshape(len(table), copies, -1)
    estimates = torch.from_numpy(influences.copy()).double().unbind(1)
    variance = profile_variance(estimates[0], probes)
    maps = [some.unflatten(1, shape) for some in estimates]
    say(f"calibrated on {len(table)} samples: spread of influences about their mean {variance**0.5:.3f} nats")
    return CalibrationRecord(
        samples=len(table),
        mean=tuple(mean_profile(torch.stack(estimates).mean(0)).tolist()),
        variance=variance,
        filter=Profile.of(maps[0], maps[1], probes).filter.tolist() if copies > 1 else None,
    )
