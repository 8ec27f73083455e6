"""Shards and manifests: what is written is read back, and nothing is lost without an error."""

import contextlib
import hashlib
import io
import json
import os
import tarfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import webdataset

from ldm_scale.data.inspection import inspect_shard
from ldm_scale.data.manifest import Manifest, ShardInfo, read_manifest, write_manifest
from ldm_scale.data.samples import Entry, EntryGroup, Sample, group_entries, read_entries
from ldm_scale.data.shards import read_shard, write_shard
from ldm_scale.errors import RunError, UsageError
from ldm_scale.files.storage import Location
from tests.shards import tar

SAMPLES = [
    Sample("a", b"first image" * 70, "jpg", ("a caption",), 3),
    Sample("b", b"second image", "webp", ("naïve 猫 🐱\nsecond line",), 0),
    Sample("cat/0001", b"third", "png", (), 12),
    Sample("dog/with space-é", b"fourth", "jpeg", ("",), None),
    Sample("e", b"fifth", "webp", ("the last caption",), 7, {"Male": -1, "where": "Zürich \ud800", "more": [None]}),
]


def write(folder: Path, samples: list[Sample] = SAMPLES) -> Path:
    """One shard of these samples."""
    return folder / write_shard(samples, Location.of(folder), "members/members-000000.tar").name


def described(path: Path, samples: int = len(SAMPLES), size: int | None = None) -> ShardInfo:
    """What a manifest says of a shard; its digest is the file's own, and so is its size by default."""
    data = path.read_bytes() if path.exists() else b""
    actual = len(data) if size is None else size
    return ShardInfo(name=path.name, samples=samples, bytes=actual, sha256=hashlib.sha256(data).hexdigest())


def read(path: Path, expected: int = len(SAMPLES), size: int | None = None) -> list[Sample]:
    return list(read_shard(Location.of(path.parent), described(path, expected, size)))


def manifest_of(*names: str, samples: int = 2) -> Manifest:
    return Manifest(shards=tuple(ShardInfo(name=name, samples=samples, bytes=1, sha256="0") for name in names))


def test_samples_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    assert read(write(tmp_path)) == SAMPLES


def test_several_captions_lie_in_txt_and_json(tmp_path: Path) -> None:
    samples = [
        Sample("a", b"1", "png", ("one", "two 猫", "one"), 7),
        Sample("b", b"2", "png", ("one", ""), None, {"Male": 1}),
        Sample("c", b"3", "png", ("one",), None, {"captions": ["other"]}),
    ]
    path = write(tmp_path, samples)
    assert read(path, 3) == samples
    found = {entry.name: entry.data for entry in read_entries(io.BytesIO(path.read_bytes()))}
    assert (found["a.txt"], json.loads(found["a.json"] or b"")) == (b"one", {"captions": ["one", "two 猫", "one"]})
    assert json.loads(found["b.json"] or b"") == {"Male": 1, "captions": ["one", ""]}


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "one").read_bytes() == write(tmp_path / "two").read_bytes()


def test_webdataset_reads_the_same_keys_and_bytes(tmp_path: Path) -> None:
    entries = list(webdataset.WebDataset(str(write(tmp_path)), shardshuffle=False))
    assert [entry["__key__"] for entry in entries] == [sample.key for sample in SAMPLES]
    for entry, sample in zip(entries, SAMPLES, strict=True):
        assert entry[sample.suffix] == sample.image
        assert entry.get("txt") == (None if sample.caption is None else sample.caption.encode())
        assert entry.get("cls") == (None if sample.label is None else str(sample.label).encode())


def test_long_file_names_are_kept(tmp_path: Path) -> None:
    samples = [Sample("x" * 200 + str(number), b"image", "jpg", ("caption",)) for number in range(2)]
    assert read(write(tmp_path, samples), 2) == samples


def test_a_shard_is_described_by_its_size_and_digest(tmp_path: Path) -> None:
    info = write_shard(SAMPLES, Location.of(tmp_path), "members/members-000000.tar")
    assert info.samples == len(SAMPLES)
    assert info.stem == "members-000000"
    assert info.bytes == (tmp_path / info.name).stat().st_size
    assert info.sha256 == Location.of(tmp_path / info.name).sha256()


def test_a_shard_of_no_samples_is_read_back(tmp_path: Path) -> None:
    assert read(write(tmp_path, []), 0) == []


def test_a_shard_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    def samples() -> Iterator[Sample]:
        yield SAMPLES[0]
        raise RunError("a reason")

    with pytest.raises(RunError, match="a reason"):
        write_shard(samples(), Location.of(tmp_path), "members/members-000000.tar")
    assert list(tmp_path.iterdir()) == []


def test_a_shard_cut_before_any_of_its_files_names_the_shard(tmp_path: Path) -> None:
    path = write(tmp_path)
    data = path.read_bytes()
    with tarfile.open(path) as archive:
        starts = [member.offset for member in archive]
    # Cut between two files of the last sample, and the number of samples is still right.
    for start in starts:
        path.write_bytes(data[:start])
        with pytest.raises(RunError, match=r"members-000000\.tar"):
            read(path, size=len(data))


@pytest.mark.parametrize("share", [0.01, 0.2, 0.35, 0.5, 0.6])
def test_a_shard_cut_inside_a_file_names_the_shard(tmp_path: Path, share: float) -> None:
    path = write(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data)) // 512 * 512 + 100])
    with pytest.raises(RunError, match=r"members-000000\.tar"):
        read(path)


@pytest.mark.parametrize("garbage", [b"<html><body>503 Slow Down</body></html>", b"<p>" * 9999, b"", bytes(10240)])
def test_what_is_no_tar_file_names_the_shard(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(garbage)
    with pytest.raises(RunError, match=r"shard\.tar") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named_with_the_cause(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"(?i)gone\.tar.*(no such file|does not exist|missing|not found)"):
        read(tmp_path / "gone.tar")


@pytest.mark.parametrize("expected", [4, 6, 0])
def test_another_number_of_samples_than_the_manifest_says_is_an_error(tmp_path: Path, expected: int) -> None:
    with pytest.raises(RunError, match=rf"holds 5 samples, its manifest says {expected}"):
        read(write(tmp_path), expected)


def test_no_sample_comes_from_other_bytes_than_the_manifests(tmp_path: Path) -> None:
    path = write(tmp_path)
    shard = described(path)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"x")  # behind the end mark, where no tar reader looks
    with pytest.raises(RunError, match=r"members-000000\.tar has another SHA-256 than its manifest says"):
        next(read_shard(Location.of(path.parent), shard))


def test_samples_are_streamed(tmp_path: Path) -> None:
    # The first sample is there before the last is read and the number of samples turns out to be wrong.
    path = write(tmp_path)
    stream = read_shard(Location.of(path.parent), described(path, 9))
    assert next(stream) == SAMPLES[0]
    with pytest.raises(RunError):
        list(stream)


UNREAD = "its json is none, or of more than 1048576 bytes"


@pytest.mark.parametrize("count", range(1, 12))
def test_a_wrong_number_never_passes_as_a_whole_shard(tmp_path: Path, count: int) -> None:
    """Fewer samples than the manifest says are passed on, so that a resumed run does not take the shard for done."""
    path = write(tmp_path)
    passed: list[Sample] = []
    stream = read_shard(Location.of(path.parent), described(path, count))
    if count == len(SAMPLES):
        assert list(stream) == SAMPLES
        return
    with pytest.raises(RunError, match=f"holds 5 samples, its manifest says {count}"):
        passed.extend(stream)
    assert passed == SAMPLES[: min(count, len(SAMPLES)) - 1]


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"other bytes")


def restore_times(path: Path) -> None:
    before = path.stat()
    overwrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "overwritten": overwrite,
    "overwritten with its old times": restore_times,
    "cut": lambda path: os.truncate(path, 1024),
    "longer": lambda path: os.truncate(path, path.stat().st_size + 512),
    "emptied": lambda path: path.write_bytes(b""),
    "touched": lambda path: os.utime(path),
}


@pytest.fixture
def large(tmp_path: Path) -> tuple[Path, list[Sample]]:
    """A shard that is not read ahead as a whole, older than a tick of the file system's clock."""
    samples = [Sample(str(number), bytes([number]) * 200_000, "jpg") for number in range(9)]
    path = write(tmp_path, samples)
    time.sleep(0.05)
    return path, samples


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_shard_that_changes_after_it_was_hashed_gives_no_other_bytes(
    large: tuple[Path, list[Sample]], change: Callable[[Path], object]
) -> None:
    path, samples = large
    stream = read_shard(Location.of(path.parent), described(path, len(samples)))
    passed = [next(stream), next(stream)]
    change(path)
    with pytest.raises(RunError, match=r"members-000000\.tar cannot be read after \d samples: it changed while it was"):
        passed.extend(stream)
    assert passed == samples[: len(passed)]


def test_a_shard_that_changes_while_it_is_validated_is_a_problem(
    large: tuple[Path, list[Sample]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = large

    def parse(entries: Iterator[Entry]) -> Iterator[EntryGroup]:
        for number, group in enumerate(group_entries(entries)):
            yield group
            if number == 1:
                overwrite(path)

    monkeypatch.setattr("ldm_scale.data.inspection.group_entries", parse)
    found = inspect_shard(Location.of(path.parent), path.name, 0, 0.0, 0, 100)
    assert (list(found.problems), found.shards) == (["cannot be read: it changed while it was read"], [])


def test_a_shard_whose_name_goes_to_another_file_is_the_one_that_was_hashed_or_none(
    large: tuple[Path, list[Sample]],
) -> None:
    path, samples = large
    stream = read_shard(Location.of(path.parent), described(path, len(samples)))
    passed = [next(stream)]
    (path.parent / "other").write_bytes(bytes(path.stat().st_size))
    os.replace(path.parent / "other", path)
    with contextlib.suppress(RunError):
        passed.extend(stream)
    assert passed == samples[: len(passed)]


def test_a_shard_of_more_bytes_than_its_manifest_says_is_not_hashed(tmp_path: Path) -> None:
    path = write(tmp_path)
    shard = described(path)
    os.truncate(path, 1 << 40)
    start = time.monotonic()
    with pytest.raises(RunError, match=f"has {1 << 40} bytes, its manifest says {shard.bytes}"):
        list(read_shard(Location.of(path.parent), shard))
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_a_pipe_or_device_in_place_of_a_shard_is_not_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    shard = described(write(tmp_path))
    make(tmp_path / shard.name)
    with pytest.raises(RunError, match="it is neither a file nor a folder"):
        list(read_shard(Location.of(tmp_path), shard))


def test_foreign_shards_are_read_for_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    entries = [("a.JPG", b"one"), ("a.json", b"{}"), ("b.txt", b"alone \xff"), ("c.png", b"two"), ("c.cls", b"cat")]
    entries += [("d.png", b"three"), ("d.json", b"{broken"), ("d.cls", b"9" * 30), ("e.png", b"4"), ("e.json", b"[1]")]
    path.write_bytes(tar([("./", b""), *entries, ("README", b"no suffix")]))
    assert read(path, 5) == [
        Sample("a", b"one", "jpg", metadata={}),
        Sample("b", b"", "", fault="no image", flaws=("its caption is not UTF-8, or of more than 65536 bytes",)),
        Sample("c", b"two", "png", flaws=("its class is no number",)),
        Sample("d", b"three", "png", flaws=(UNREAD, "its class is no number")),
        Sample("e", b"4", "png"),
    ]


def test_a_manifest_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    written = Manifest(
        shards=(write_shard(SAMPLES, Location.of(tmp_path), "members/members-000000.tar"),),
        classes=("cat", "dög"),
        split="random halves, seed 0",
        split_sha256="abc",
    )
    write_manifest(Location.of(tmp_path), written)
    assert read_manifest(Location.of(tmp_path)) == written
    assert written.samples == 5


def test_a_manifest_is_never_overwritten(tmp_path: Path) -> None:
    write_manifest(Location.of(tmp_path), manifest_of("a.tar"))
    with pytest.raises(UsageError, match=r"manifest\.json exists already"):
        write_manifest(Location.of(tmp_path), manifest_of("b.tar"))
    assert read_manifest(Location.of(tmp_path)) == manifest_of("a.tar")


def test_a_missing_folder_and_a_folder_without_manifest_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere does not exist"):
        read_manifest(Location.of(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=r"holds no manifest\.json"):
        read_manifest(Location.of(tmp_path))


SHARD = {"name": "a.tar", "samples": 1, "bytes": 1, "sha256": "0"}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "<html>",
        "[]",
        "null",
        "{}",
        '{"shards": "a.tar"}',
        json.dumps({"shards": [{"name": "a.tar"}]}),
        json.dumps({"shards": [SHARD | {"samples": "many"}]}),
        json.dumps({"shards": [SHARD], "surprise": 1}),
        b"\xff\xfe\x00",
    ],
)
def test_a_malformed_manifest_is_named(tmp_path: Path, content: str | bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=r"manifest\.json is not a shard manifest") as caught:
        read_manifest(Location.of(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("manifest", [manifest_of(), manifest_of("a.tar", samples=0)])
def test_a_manifest_of_no_samples_is_an_error(tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(Location.of(tmp_path), manifest)
    with pytest.raises(UsageError, match="lists no samples"):
        read_manifest(Location.of(tmp_path))


@pytest.mark.parametrize("key", ["shards", "classes"])
def test_a_manifest_of_millions_of_errors_is_refused_at_the_first(tmp_path: Path, key: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"shards": [SHARD], key: [1] * 2_000_000}))
    tracemalloc.start()
    with pytest.raises(UsageError, match="is not a shard manifest: Input should be "):
        read_manifest(Location.of(tmp_path))
    # Of Python alone; the errors would take 1 GB.
    assert tracemalloc.get_traced_memory()[1] < 200 << 20
    tracemalloc.stop()


def test_a_manifest_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(20 << 30)
    with pytest.raises(UsageError, match=rf"manifest\.json has {20 << 30} bytes; of such a file at most"):
        read_manifest(Location.of(tmp_path))


def test_two_shards_of_one_stem_are_an_error(tmp_path: Path) -> None:
    write_manifest(Location.of(tmp_path), manifest_of("members/x-0.tar", "members/x-1.tar", "heldout/x-1.tar"))
    with pytest.raises(UsageError, match="two shards named x-1"):
        read_manifest(Location.of(tmp_path))
