"""Shards over a network that fails: exactly the samples that were written, or an error that names the shard."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

import boto3
import numpy as np
import pytest
from botocore.config import Config

from ldm_scale.data.manifest import ShardInfo
from ldm_scale.data.samples import Sample
from ldm_scale.data.shards import read_shard, write_shard
from ldm_scale.errors import RunError, UsageError
from ldm_scale.files import s3
from ldm_scale.files.storage import Location
from tests.faults import ALWAYS, Fault, proxied
from tests.s3 import make_bucket

# Where files end: on a tar block, on tarfile's reads of 10,240 bytes, on the package's reads of a MiB.
ENDS = (1024, 10_240, 20_480, 1 << 20, (1 << 20) + 10_240)
IN_BODY = ("reset in body", "stall in body", "truncated", "shortened", "flipped")
BEFORE = ("reset", "stall", "SlowDown", "InternalError")


@dataclass(frozen=True)
class Stored:
    """A shard in a bucket, the samples that were written to it, and the places in it where faults strike."""

    folder: Location
    info: ShardInfo
    samples: tuple[Sample, ...]
    places: tuple[int, ...]

    @property
    def address(self) -> str:
        return str(self.folder / self.info.name)

    def read(self) -> list[Sample]:
        return list(read_shard(self.folder, self.info))


def payload(kind: str, sizes: list[int]) -> list[bytes]:
    rng = np.random.default_rng(0)
    return [rng.bytes(size) if kind == "random" else bytes(size) for size in sizes]


def aligned(kind: str) -> list[Sample]:
    """Samples of one file, each of which fills its blocks."""
    sizes = [end - start - 512 for start, end in zip((0, *ENDS), ENDS, strict=False)]
    return [Sample(f"{number}", data, "jpg") for number, data in enumerate(payload(kind, sizes))]


def unaligned(kind: str) -> list[Sample]:
    """Samples of several files, all of odd sizes."""
    images = payload(kind, [1, 701, 9_999, 500_001, 77])
    return [Sample(f"a/{number}", image, "png", (f"caption {number}",), number) for number, image in enumerate(images)]


@pytest.fixture(scope="module")
def folder(s3_server: None) -> Location:
    return Location.of(make_bucket("test-data-faults")) / "shards"


@pytest.fixture(scope="module")
def shards(folder: Location) -> dict[str, Stored]:
    """Every payload with either alignment."""
    found = {}
    for kind in ("random", "zero"):
        for layout in (aligned, unaligned):
            name, samples = f"{kind} {layout.__name__}", tuple(layout(kind))
            info = write_shard(samples, folder, f"members/{kind}-{layout.__name__}.tar")
            middle = (10_240, 1 << 20) if layout is aligned else (info.bytes // 2,)
            found[name] = Stored(folder, info, samples, (0, *middle, info.bytes - 1))
    return found


@pytest.fixture(params=["random aligned", "random unaligned", "zero aligned", "zero unaligned"])
def shard(request: pytest.FixtureRequest, shards: dict[str, Stored]) -> Stored:
    return shards[request.param]


@pytest.fixture
def one(shards: dict[str, Stored]) -> Stored:
    return shards["zero aligned"]


@pytest.fixture
def unsummed(folder: Location, one: Stored) -> Stored:
    """A shard as another program may have put it: S3 has no checksum of its own for it."""
    data = (one.folder / one.info.name).read_bytes()
    client = boto3.client("s3", config=Config(request_checksum_calculation="when_required"))
    bucket, key = (str(folder / "members/unsummed.tar").removeprefix("s3://")).split("/", 1)
    client.put_object(Bucket=bucket, Key=key, Body=data)
    assert "ChecksumCRC32" not in client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    return Stored(folder, one.info.model_copy(update={"name": "members/unsummed.tar"}), one.samples, one.places)


def refuses(stored: Stored, match: str = "s3:") -> None:
    """Reading gives an error of one line that names the shard, and no sample before it."""
    with pytest.raises((RunError, UsageError), match=match) as caught:
        next(read_shard(stored.folder, stored.info))
    assert stored.address in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_files_end_where_this_module_says(shards: dict[str, Stored]) -> None:
    stored = shards["random aligned"]
    with tarfile.open(fileobj=io.BytesIO((stored.folder / stored.info.name).read_bytes())) as archive:
        assert tuple(member.offset_data + member.size for member in archive) == ENDS


@pytest.mark.parametrize("kind", IN_BODY)
def test_a_body_that_fails_anywhere_is_read_again_from_its_first_byte(shard: Stored, kind: str) -> None:
    faults = [Fault(kind, key=shard.info.name, at=place) for place in shard.places]
    with proxied(*faults) as proxy:
        assert shard.read() == list(shard.samples)
    assert proxy.struck == dict.fromkeys(faults, 1)
    assert len(proxy.requests) == len(faults) + 1


def test_requests_that_fail_are_made_again(shard: Stored) -> None:
    faults = [Fault(kind, key=shard.info.name) for kind in BEFORE]
    with proxied(*faults) as proxy:
        assert shard.read() == list(shard.samples)
    assert proxy.struck == dict.fromkeys(faults, 1)
    assert len(proxy.requests) == len(faults) + 1


@pytest.mark.parametrize("kind", [*BEFORE, *IN_BODY])
def test_a_fault_that_never_ends_names_the_shard(one: Stored, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "ATTEMPTS", 3)
    fault = Fault(kind, key=one.info.name, at=10_240, times=ALWAYS)
    with proxied(fault) as proxy:
        refuses(one)
    assert proxy.struck == {fault: 3}


@pytest.mark.parametrize("kind", ["shortened", "flipped"])
def test_without_a_checksum_of_s3_the_manifest_tells_wrong_bytes(unsummed: Stored, kind: str) -> None:
    """Once they are fetched again; wrong twice is another object."""
    for place in unsummed.places:
        with proxied(Fault(kind, key=unsummed.info.name, at=place)) as proxy:
            assert unsummed.read() == list(unsummed.samples)
            assert sum(proxy.struck.values()) == 1
        with proxied(Fault(kind, key=unsummed.info.name, at=place, times=2)) as proxy:
            refuses(unsummed, f"has {place} bytes" if kind == "shortened" else "has another SHA-256")
            assert sum(proxy.struck.values()) == 2


@pytest.fixture
def data(one: Stored) -> Iterator[bytes]:
    """A shard's bytes, which are there again afterwards."""
    location = one.folder / one.info.name
    found = location.read_bytes()
    yield found
    location.replace(found)


def test_an_object_that_is_not_the_manifests_gives_no_sample(one: Stored, data: bytes) -> None:
    location = one.folder / one.info.name
    for place in (*one.places[1:], len(data) - 512):
        location.replace(data[:place])
        refuses(one, f"has {place} bytes, its manifest says {len(data)}")
    location.replace(data + bytes(512))
    refuses(one, f"has {len(data) + 512} bytes")
    for place in one.places:
        location.replace(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        refuses(one, "has another SHA-256 than its manifest says")


def test_a_shard_that_is_gone_is_named(one: Stored) -> None:
    gone = Stored(one.folder, one.info.model_copy(update={"name": "members/gone.tar"}), (), ())
    refuses(gone, r"gone\.tar does not exist")
