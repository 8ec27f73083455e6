"""The benchmark of the stream: its pictures and shards, and the whole of it on a few images."""

import io
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_scale.benchmarks import stream, weed
from ldm_scale.benchmarks.memory import OWN, process_bytes
from ldm_scale.benchmarks.options import StreamBenchmarkConfig
from ldm_scale.benchmarks.pictures import make_picture, make_shards
from ldm_scale.benchmarks.stream import plain_loop, run_stream_benchmark
from ldm_scale.cli import main
from ldm_scale.config.base import build
from ldm_scale.config.data import ImageConfig
from ldm_scale.data.images import open_image, preprocess
from ldm_scale.data.manifest import read_manifest
from ldm_scale.data.shards import read_shard
from ldm_scale.errors import RunError, UsageError
from ldm_scale.files.storage import Location

SMALL = {"samples": 96, "few": 24, "shards": 4, "side": 48, "size": 32, "batch_size": 8, "rows_per_part": 8}


def test_pictures_are_distinct_photographs_of_noise() -> None:
    first, again, other = (make_picture(seed, 64) for seed in (0, 0, 1))
    assert first == again != other
    pixels = np.asarray(Image.open(io.BytesIO(first)), float)
    assert pixels.shape == (64, 64, 3)
    # Neighbours are alike.
    assert np.corrcoef(pixels[:, :-1].ravel(), pixels[:, 1:].ravel())[0, 1] > 0.9


def test_the_plain_loop_sees_the_pixels_that_the_audit_sees(tmp_path: Path) -> None:
    folder = Location.of(tmp_path)
    make_shards(folder, 30, 4, [make_picture(seed, 48) for seed in range(7)])
    shards = read_manifest(folder).shards
    assert Counter(shard.side for shard in shards) == {"members": 2, "heldout": 2}
    samples = [sample for shard in shards for sample in read_shard(folder, shard)]
    assert len({sample.key for sample in samples}) == 30
    images = [open_image(sample.image, 10_000) for sample in samples]
    total = sum(int(preprocess(image, ImageConfig(), 32).sum()) for image in images)
    assert plain_loop(folder, 32) == (len(images), total) == (30, total)


@pytest.mark.usefixtures("local_ray")
def test_the_command_prints_rates_start_and_memory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weed.shutil, "which", lambda *_, **__: None)
    flags = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert main(["benchmark", "stream", *flags]) == 0
    *lines, left_out = capsys.readouterr().out.splitlines()
    rate, start, *memory = [line for line in lines if line.startswith("stream: ")]
    assert re.match(r"stream: graph, from disk: [\d.,]+ samples/s, [\d.]+ times the bound of [\d.,]+, 96 images", rate)
    assert start.startswith("stream: start and end, from disk: ")
    kinds = [re.match(r"stream: memory of (\w+), from disk: [\d.]+ GB", line)[1] for line in memory]  # type: ignore[index]
    assert "driver" in kinds
    assert all(line.endswith(" at 24 images") for line in memory if "driver" in line)
    assert left_out.startswith("stream: from S3: left out")


@pytest.mark.usefixtures("inline")
def test_other_pixels_than_the_plain_loops_fail_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "plain_loop", lambda folder, size: (96, 1))
    with pytest.raises(RunError, match="disk: the graph and the plain loop did not see the same pixels"):
        next(run_stream_benchmark(build(StreamBenchmarkConfig, SMALL)))


def test_what_cannot_be_meant_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="few: give fewer than samples"):
        build(StreamBenchmarkConfig, SMALL | {"few": 96})
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UsageError, match="RAY_ADDRESS"):
        next(run_stream_benchmark(StreamBenchmarkConfig()))


def test_own_memory_is_what_a_process_fills() -> None:
    before = process_bytes(os.getpid(), OWN)
    held = np.ones(50_000_000, np.uint8)
    assert 40e6 < process_bytes(os.getpid(), OWN) - before < 70e6
    assert held.all()
