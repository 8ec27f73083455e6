"""A reader's memory does not grow with its shard."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

import boto3
import numpy as np
import pytest

from ldm_scale.data.manifest import ShardInfo
from ldm_scale.data.task import ReadTask
from ldm_scale.files.storage import Location
from tests.shards import tar

# The peak of this process's own memory: getrusage would count that of the process which started it.
READ = """
import re, sys
from ldm_scale.data.task import ReadTask
from ldm_scale.engine.reading import read_blocks
rows = sum(len(table) for table in read_blocks(ReadTask.model_validate_json(sys.argv[1])))
print(rows, re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


def make_shard(bucket: str, file: Path, count: int) -> ReadTask:
    """A shard on S3 of `count` images of 1 MB."""
    image = np.random.default_rng(0).bytes(1_000_000)
    with tarfile.open(file, "w") as archive:
        for number in range(count):
            member = tarfile.TarInfo(f"{number:06d}.jpg")
            member.size = len(image)
            archive.addfile(member, io.BytesIO(image))
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    info = ShardInfo(name=f"members/{file.name}", samples=count, bytes=file.stat().st_size, sha256=sha256)
    boto3.client("s3").upload_file(str(file), bucket.removeprefix("s3://"), info.name)
    file.unlink()
    return ReadTask(folder=bucket, shard=info, membership=True)


def peak(task: ReadTask) -> float:
    """MB of memory that a fresh process takes at most while it reads every sample of a shard."""
    done = subprocess.run(
        [sys.executable, "-c", READ, task.model_dump_json()], capture_output=True, text=True, check=True
    )
    rows, kib = done.stdout.split()
    assert int(rows) == task.shard.samples
    return int(kib) * 1024 / 1e6


def test_a_shard_three_times_as_long_takes_hardly_more_memory(bucket: str, tmp_path: Path) -> None:
    short, long = (peak(make_shard(bucket, tmp_path / f"{count}.tar", count)) for count in (40, 120))
    assert long - short < 40


def local_shard(folder: Path, files: Iterable[tuple[str, bytes]], count: int) -> ReadTask:
    """A shard of so many samples in a folder."""
    location = Location.of(folder) / "members/m.tar"
    location.create(tar(files))
    info = ShardInfo(name="members/m.tar", samples=count, bytes=location.size(), sha256=location.sha256())
    return ReadTask(folder=str(folder), shard=info, membership=True)


@pytest.mark.slow
def test_metadata_of_samples_that_wait_take_no_memory(tmp_path: Path) -> None:
    """A MB of JSON is 25 MB of Python."""
    metadata = json.dumps({"x": [[]] * 340_000}, separators=(",", ":")).encode()
    assert 10**6 < len(metadata) < 1 << 20

    def shard(count: int) -> ReadTask:
        numbers = (f"{number:02d}" for number in range(count))
        files = [file for number in numbers for file in ((f"{number}.jpg", b""), (f"{number}.json", metadata))]
        return local_shard(tmp_path / str(count), files, count)

    assert peak(shard(60)) - peak(shard(5)) < 25


@pytest.mark.slow
def test_a_shard_of_400_000_empty_files_is_read_within_300_mb(tmp_path: Path) -> None:
    count = 400_000
    assert peak(local_shard(tmp_path, ((f"{number:06d}.jpg", b"") for number in range(count)), count)) < 300


@pytest.mark.slow
def test_a_shard_of_a_gigabyte_is_read_within_300_mb(bucket: str, tmp_path: Path) -> None:
    assert peak(make_shard(bucket, tmp_path / "shard.tar", 1000)) < 300
