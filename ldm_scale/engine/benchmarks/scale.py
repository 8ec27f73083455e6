"""How the audit's graph scales: the real one, on pretended GPUs, with auditors that only wait."""

import io
import math
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from PIL import Image
from ray.data import DataContext

from ldm_scale.auditor import STAGES, AuditedBatch, Calibration, Cost
from ldm_scale.benchmarks.lines import SAMPLES, Line
from ldm_scale.config import DEMO, AuditConfig, ScaleBenchmarkConfig, build
from ldm_scale.data.manifest import Manifest, write_manifest
from ldm_scale.data.samples import Sample
from ldm_scale.data.shards import write_shard
from ldm_scale.engine.audit import AuditorActor, compute_rows
from ldm_scale.engine.plan import check_inputs, plan_audit
from ldm_scale.engine.progress import say
from ldm_scale.engine.reading import as_pixels
from ldm_scale.engine.session import check_local, session
from ldm_scale.ownership import own
from ldm_scale.rundir import RunDirectory, RunRecord
from ldm_scale.schema import control
from ldm_scale.storage import Location, read_table
from ldm_scale.transfer import Arriving, Transfer

SHARD_SAMPLES = 500
SIDE = 32
# Seconds that actors may take to start: they share this machine's CPUs.
STARTING = 600


@dataclass(frozen=True)
class Scaling:
    """What a pool of so many auditors did while all of them were at work, each waiting so long a batch.

    rate: samples/s. bound: those of auditors who never wait for the graph, infinite where they wait for nothing else.
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


class SimulatedAuditorActor(AuditorActor):
    """An auditor without a target, which takes every image in and leaves to others what to make of it."""

    def __init__(self, record: RunRecord, device: str, image_size: int, calibration: Calibration) -> None:
        self._computing = threading.Lock()
        self._record, self._size = record, image_size
        self._transfer = Transfer(torch.device("cpu"))

    def _refusal(self, caption: str | None, label: int | None, flaws: str) -> str | None:
        return None

    def _load(self, good: pa.Table) -> Arriving:
        return self._transfer.begin(as_pixels(good["pixels"], self._size))


def waiting(seconds: float) -> type[AuditorActor]:
    """An auditor that waits for so long a batch instead of measuring anything."""

    class WaitingAuditorActor(SimulatedAuditorActor):
        def _measure(self, good: pa.Table, arriving: Arriving) -> AuditedBatch:
            time.sleep(seconds)
            return made_up(self._record, np.full(len(good), np.nan, np.float32))

    return WaitingAuditorActor


def made_up(record: RunRecord, distortion: Float[np.ndarray, " n"]) -> AuditedBatch:
    """What could have been measured of n samples, of which the distortion is given: float32, nan for none.

    Their stability is the time of now, for steady_rate: thousands of seconds, and seconds.
    """
    samples, dimensions, bins = len(distortion), record.dimensions, record.config.masks.bins
    spectra = {name: np.ones((samples, len(steps), bins), np.float32) for name, steps in record.timesteps.items()}
    return AuditedBatch(
        influence=np.zeros((samples, dimensions), np.float32),
        distortion=distortion,
        stability=np.tile(np.array(divmod(time.time(), 1000), np.float32), (samples, 1)),
        leakage=np.zeros((samples, dimensions), np.float32),
        spectra={**spectra, **{control(name): values for name, values in spectra.items()}},
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
        compute_rows(plan, run, owner, actor)
    return run


def steady_rate(run: RunDirectory) -> float:
    """Samples/s that auditors were done with, from 30% of the samples to 90%.

    By their own times: commits wait for writers to start, and then catch up faster than auditors work.
    """
    columns = ["stability_correlation", "stability_overlap"]
    table = pa.concat_tables(read_table(part, columns) for part in run.parts())
    thousands, seconds = (table[name].to_numpy().astype(float) for name in columns)
    times, counts = np.unique(1000 * thousands + seconds, return_counts=True)
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

    Raises UsageError where RAY_ADDRESS names another Ray: its GPUs would not be pretended.
    """
    check_local("the benchmark pretends GPUs on")
    with session(num_gpus=max(config.fake_gpus)):
        context = DataContext.get_current().copy()
        # Rates are those of a whole pool, not of one that is starting.
        context.wait_for_min_actors_s = STARTING
        with DataContext.current(context):
            for auditors in config.fake_gpus:
                yield _measure(config, auditors, config.batch_seconds)
            yield _measure(config, max(config.fake_gpus), 0)
