"""Every reader of tars, on one file."""

from pathlib import Path

from ldm_scale.data.inspection import inspect_shard
from ldm_scale.data.manifest import ShardInfo
from ldm_scale.data.samples import parse_samples
from ldm_scale.data.shards import read_shard
from ldm_scale.data.sources.tars import tarred_files
from ldm_scale.data.sources.webdataset import read_webdataset
from ldm_scale.errors import RunError
from ldm_scale.files.storage import Location


def samples(file: Path, count: int) -> None:
    with file.open("rb") as stream:
        assert len(list(parse_samples(stream))) == count


def audit(file: Path, count: int) -> None:
    location = Location.of(file)
    info = ShardInfo(name=file.name, samples=count, bytes=location.size(), sha256=location.sha256())
    list(read_shard(Location.of(file.parent), info))


def validate(file: Path, count: int) -> None:
    found = inspect_shard(Location.of(file.parent), file.name, 0, 0.0, 0, 10**6)
    # Of the shard as a whole; those of its samples are no reason not to read it.
    problems = [problem for problem in found.problems if problem.startswith("cannot be read")]
    assert bool(problems) != bool(found.shards)
    for problem in problems:
        raise RunError(problem)


# Each is given the number of samples as well.
READERS = {
    "samples": samples,
    "audit": audit,
    "validate": validate,
    "source": lambda file, count: tarred_files(Location.of(file)),
    "webdataset": lambda file, count: read_webdataset(Location.of(file.parent)),
}
