"""How fast small images stream through the audit's graph, beside a plain loop of webdataset and Pillow."""

import io
import itertools
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ldm_scale.benchmarks.lines import BYTES, SAMPLES, Line, number
from ldm_scale.benchmarks.memory import watched
from ldm_scale.benchmarks.options import StreamBenchmarkConfig
from ldm_scale.benchmarks.scale import STARTING, run_graph, steady_rate
from ldm_scale.benchmarks.simulated import IdleAuditorActor
from ldm_scale.benchmarks.weed import find_weed, s3_server
from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.base import DEMO, build
from ldm_scale.data.manifest import Manifest, read_manifest, write_manifest
from ldm_scale.data.samples import Sample
from ldm_scale.data.shards import write_shard
from ldm_scale.engine.session import check_local, session, whole_pool
from ldm_scale.errors import RunError
from ldm_scale.files.storage import Location, read_table

PART = "stream"
# Distinct pictures, of which the samples are made in turn.
PICTURES = 1000
QUALITY = 90


@dataclass(frozen=True)
class Streaming:
    """The graph and the plain loop on the same images, from `where`.

    rate: samples/s of the auditor from 30% to 90%. plain_rate: of all. startup: seconds of Ray, actors and workers that
    this rate does not explain. peaks: by the samples of a run, bytes that the largest process of each kind had for
    itself.
    """

    where: str
    samples: int
    rate: float
    plain_rate: float
    startup: float
    peaks: dict[int, dict[str, int]]

    def lines(self) -> Iterator[Line]:
        """Rate, start-up, and the memory of each kind of process at both sizes."""
        note = f"{self.samples:,} images; bound: a plain loop in one process; goal: at least 0.8 of it"
        yield Line(PART, f"graph, from {self.where}", self.rate, SAMPLES, bound=self.plain_rate, note=note)
        yield Line(PART, f"start and end, from {self.where}", self.startup, "s")
        few, many = sorted(self.peaks)
        for kind, peak in sorted(self.peaks[many].items()):
            before = self.peaks[few].get(kind)
            note = "" if before is None else f"{number(before / 1e9)} at {few:,} images"
            yield Line(PART, f"memory of {kind}, from {self.where}", peak / 1e9, BYTES, note=note)


def make_picture(seed: int, side: int) -> bytes:
    """A JPEG of smoothed noise, coarse and fine as in photographs: the finer, the fainter."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((side, side, 3), np.float32)
    for cells in (2**power for power in range(2, math.ceil(math.log2(side)) + 1)):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        picture += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC), np.float32) / cells
    picture = 255 * (picture - picture.min()) / np.ptp(picture)
    buffer = io.BytesIO()
    Image.fromarray(picture.astype(np.uint8)).save(buffer, "jpeg", quality=QUALITY)
    return buffer.getvalue()


def make_shards(folder: Location, samples: int, shards: int, pictures: list[bytes]) -> None:
    """So many shards of the pictures in turn, half of them members."""
    bounds = np.linspace(0, samples, shards + 1).astype(int)
    infos = []
    for shard, (first, last) in enumerate(itertools.pairwise(bounds)):
        side = "members" if shard % 2 else "heldout"
        images = (Sample(key=f"{i:08d}", image=pictures[i % len(pictures)], suffix="jpg") for i in range(first, last))
        infos.append(write_shard(images, folder, f"{side}/{side}-{shard:06d}.tar"))
    write_manifest(folder, Manifest(shards=tuple(infos)))


def plain_loop(folder: Location, size: int) -> tuple[int, int]:
    """All images, decoded and resized by Pillow in this process: their number and the sum of their pixels."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    count = total = 0
    for shard in read_manifest(folder).shards:
        with (folder / shard.name).open_stream() as stream:
            for sample in group_by_keys(tar_file_expander([{"url": shard.name, "stream": stream}])):
                image = Image.open(io.BytesIO(sample["jpg"])).convert("RGB")
                pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1).copy()
                total += int(pixels.sum())
                count += 1
    return count, total


def _run(config: StreamBenchmarkConfig, shards: Location, out: Path) -> tuple[float, float, dict[str, int], int]:
    """The graph on a Ray of its own: its steady rate, seconds in all, peaks, and the sum of all pixels."""
    values = {
        "out": str(out),
        "shards": str(shards),
        "target": str(DEMO / "target"),
        "images": {"size": config.size},
        "compute": {
            "device": "cpu",
            "actors": 1,
            "batch_size": config.batch_size,
            "rows_per_part": config.rows_per_part,
        },
    }
    started = time.monotonic()
    with watched() as peaks, session(), whole_pool(STARTING):
        run = run_graph(build(AuditConfig, values), IdleAuditorActor)
    seconds = time.monotonic() - started
    total = sum(read_table(part, ["distortion"])["distortion"].to_numpy().astype(int).sum() for part in run.parts())
    return steady_rate(run), seconds, dict(peaks), int(total)


def _measure(config: StreamBenchmarkConfig, where: str, shards: Location, pictures: list[bytes]) -> Streaming:
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for samples in (config.few, config.samples):
            make_shards(shards / str(samples), samples, config.shards, pictures)
            rate, seconds, peaks[samples], total = _run(config, shards / str(samples), Path(folder) / str(samples))
    started = time.monotonic()
    plain = plain_loop(shards / str(config.samples), config.size)
    plain_rate = config.samples / (time.monotonic() - started)
    if plain != (config.samples, total):
        raise RunError(f"{where}: the graph and the plain loop did not see the same pixels")
    return Streaming(where, config.samples, rate, plain_rate, seconds - config.samples / rate, peaks)


def run_stream_benchmark(config: StreamBenchmarkConfig) -> Iterator[Streaming]:
    """The real graph on small JPEGs with an auditor that does nothing, from this machine's disk and from its S3 server.

    S3 is left out if SeaweedFS is not installed.

    Raises:
        UsageError: RAY_ADDRESS names another Ray than one of its own.
        RunError: The graph's pixels are not those of the plain loop.
    """
    check_local("the benchmark measures")
    pictures = [make_picture(seed, config.side) for seed in range(min(PICTURES, config.samples))]
    with tempfile.TemporaryDirectory() as folder:
        yield _measure(config, "disk", Location.of(folder), pictures)
    if config.s3 and find_weed():
        with s3_server() as bucket:
            yield _measure(config, "S3", Location.of(bucket), pictures)
