"""A reader's memory does not grow with its shard."""

import hashlib
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import boto3
import numpy as np
import pytest

from ldm_scale.data.manifest import ShardInfo
from ldm_scale.data.task import ReadTask

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


@pytest.mark.slow
def test_a_shard_of_a_gigabyte_is_read_within_300_mb(bucket: str, tmp_path: Path) -> None:
    assert peak(make_shard(bucket, tmp_path / "shard.tar", 1000)) < 300
