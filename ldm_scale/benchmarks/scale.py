"""How the audit's graph scales: the real one, on pretended GPUs, with auditors that only wait."""

import io
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from ldm_scale.auditor import STAGES, AuditedBatch, Auditor, Calibration, Cost
from ldm_scale.benchmarks.lines import SAMPLES, Line
from ldm_scale.benchmarks.options import ScaleBenchmarkConfig
from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.base import DEMO, build
from ldm_scale.data.manifest import Manifest, write_manifest
from ldm_scale.data.samples import Sample
from ldm_scale.data.shards import write_shard
from ldm_scale.device.transfer import Arriving, Transfer
from ldm_scale.engine.actor import Actor, AuditorActor
from ldm_scale.engine.audit import compute_rows
from ldm_scale.engine.plan import plan_audit
from ldm_scale.engine.session import check_local, session, whole_pool
from ldm_scale.files.ownership import own
from ldm_scale.files.rundir import RunDirectory, RunRecord
from ldm_scale.files.storage import Location, read_table
from ldm_scale.inputs import check_inputs
from ldm_scale.schema import spectrum_column
from ldm_scale.terminal import say

# The column of the second at which an auditor was done with a sample.
DONE = "done"
SHARD_SAMPLES = 500
SIDE = 32
# Seconds that actors may take to start: they share this machine's CPUs.
STARTING = 600


@dataclass(frozen=True)
class Scaling:
    """What a pool of so many auditors did while all of them were at work, each waiting so long a batch.

    rate: samples/s. bound: those of auditors who never wait for the graph, infinite if they wait for nothing else.
    """

    auditors: int
    samples: int
    rate: float
    bound: float

    @property
    def efficiency(self) -> float:
        """The rate as a share of its bound."""
        return self.rate / self.bound

    def line(self) -> Line:
        """As a line of the benchmark."""
        waits = math.isfinite(self.bound)
        note = f"{self.samples} samples" + (
            "" if waits else "; auditors do not wait: the most that the graph does here"
        )
        bound = self.bound if waits else None
        return Line("scale", f"{self.auditors} auditors", self.rate, SAMPLES, bound=bound, note=note)


class SimulatedAuditor:
    """Takes every image in, and waits for so long a batch instead of measuring anything."""

    def __init__(self, record: RunRecord, seconds: float) -> None:
        self._record, self._seconds = record, seconds
        self._transfer = Transfer(torch.device("cpu"))

    def refusal(self, caption: str | None, label: int | None) -> str | None:
        """None: every sample can be taken."""
        return None

    def load(self, pixels: UInt8[np.ndarray, "n 3 H W"]) -> Arriving:
        """As the auditor does."""
        return self._transfer.begin(pixels)

    def audit(
        self,
        pixels: UInt8[Tensor, "n 3 H W"],
        sample_ids: Sequence[str],
        captions: Sequence[Sequence[str]],
        labels: Sequence[int | None],
    ) -> AuditedBatch:
        """Made-up rows."""
        time.sleep(self._seconds)
        return made_up(self._record, np.full(len(pixels), np.nan, np.float32))


class SimulatedActor(AuditorActor):
    """An actor with such an auditor, whose rows also say when they were done."""

    def __init__(self, auditor: SimulatedAuditor, image_size: int) -> None:
        Actor.__init__(self, cast(Auditor, auditor), image_size)

    def _compute(self, good: pa.Table, arriving: Arriving) -> list[pa.Table]:
        rows, rejects = super()._compute(good, arriving)
        return [rows.append_column(DONE, pa.array(np.full(len(rows), time.time()))), rejects]


def waiting(seconds: float) -> type[AuditorActor]:
    """An actor whose auditor waits for so long a batch."""

    class WaitingAuditorActor(SimulatedActor):
        def __init__(self, record: RunRecord, device: str, image_size: int, calibration: Calibration) -> None:
            super().__init__(SimulatedAuditor(record, seconds), image_size)

    return WaitingAuditorActor


def made_up(record: RunRecord, distortion: Float[np.ndarray, " n"]) -> AuditedBatch:
    """What could have been measured of n samples with this distortion (float32, nan for none)."""
    samples, dimensions, bins = len(distortion), record.dimensions, record.config.masks.bins
    spectra = {name: np.ones((samples, len(steps), bins), np.float32) for name, steps in record.timesteps.items()}
    return AuditedBatch(
        influence=np.zeros((samples, dimensions), np.float32),
        distortion=distortion,
        stability=np.full((samples, 2), np.nan, np.float32),
        leakage=np.zeros((samples, dimensions), np.float32),
        spectra={**spectra, **{spectrum_column(name, "random"): values for name, values in spectra.items()}},
        finite=np.ones(samples, bool),
        cost=Cost(dict.fromkeys(STAGES, 0.0), 0, 0),
    )


def make_shards(folder: Location, samples: int) -> None:
    """Shards of small JPEGs of noise, half of them members."""
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(buffer, "jpeg")
    image = buffer.getvalue()

    def shard(side: str, first: int, last: int) -> Iterator[Sample]:
        return (Sample(key=f"{side}-{number:08d}", image=image, suffix="jpg") for number in range(first, last))

    half = -(-samples // 2)
    infos = [
        write_shard(shard(side, start, min(start + SHARD_SAMPLES, half)), folder, f"{side}/{side}-{start:08d}.tar")
        for side in ("members", "heldout")
        for start in range(0, half, SHARD_SAMPLES)
    ]
    write_manifest(folder, Manifest(shards=tuple(infos)))


def simulate(config: AuditConfig, seconds: float) -> RunDirectory:
    """Commit made-up rows of all samples by auditors who wait so long a batch; needs a connected Ray."""
    return run_graph(config, waiting(seconds))


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


def _measure(config: ScaleBenchmarkConfig, auditors: int, seconds: float) -> Scaling:
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
        make_shards(Location.of(shards), samples)
        values = {"out": str(out), "shards": str(shards), "target": str(DEMO / "target"), "compute": compute}
        rate = steady_rate(simulate(build(AuditConfig, values), seconds))
    return Scaling(auditors, samples, rate, auditors * config.batch_size / seconds if seconds else math.inf)


def run_scale_benchmark(config: ScaleBenchmarkConfig) -> Iterator[Scaling]:
    """The real graph on pretended GPUs of a Ray of this process's own, pool by pool, then the largest without waiting.

    Raises:
        UsageError: RAY_ADDRESS names another Ray: its GPUs would not be pretended.
    """
    check_local("the benchmark pretends GPUs on")
    with session(num_gpus=max(config.fake_gpus)), whole_pool(STARTING):
        for auditors in config.fake_gpus:
            yield _measure(config, auditors, config.batch_seconds)
        yield _measure(config, max(config.fake_gpus), 0)
