"""Inspecting shards: a good one has no problem, and each kind of damage is named."""

import hashlib
import io
from pathlib import Path

import pytest

from ldm_scale.data.inspection import Inspection, inspect_shard
from ldm_scale.data.manifest import ShardInfo, read_manifest
from ldm_scale.files.storage import Location
from tests.conftest import make_image
from tests.shards import tar


def png(seed: int, size: int = 16) -> bytes:
    buffer = io.BytesIO()
    make_image(seed, size).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, files: list[tuple[str, bytes]], samples: int) -> ShardInfo:
    """A shard of these files, with a manifest's entry that fits its bytes."""
    path = folder / "members/members-000000.tar"
    path.parent.mkdir(exist_ok=True)
    data = tar(files)
    path.write_bytes(data)
    return ShardInfo(
        name="members/members-000000.tar",
        samples=samples,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def inspect(
    folder: Path, shard: ShardInfo | str, classes: int = 0, share: float = 1.0, max_pixels: int = 10_000
) -> Inspection:
    return inspect_shard(Location.of(folder), shard, classes, share, 0, max_pixels)


def test_a_good_shard_folder_has_no_problem_and_is_counted(tiny_shards: Path) -> None:
    total = Inspection()
    manifest = read_manifest(Location.of(tiny_shards))
    for shard in manifest.shards:
        total.add(inspect(tiny_shards, shard, len(manifest.classes)))
    assert total.problems == {}
    assert len(set(total.keys)) == 48
    assert total.files == {"png": 48, "txt": 48, "cls": 48}
    assert total.conditions == {(True, 0): 24, (True, 1): 24}
    assert (total.decoded, total.sides) == (48, (16, 16))


GOOD = [("a.png", png(0)), ("a.txt", b"one"), ("a.cls", b"1"), ("b.png", png(1)), ("b.txt", b"two")]


@pytest.mark.parametrize(
    ("files", "samples", "problem", "first"),
    [
        ([("c.txt", b"three")], 3, "no image", "c"),
        ([("c.png", b"broken")], 3, "an image that cannot be decoded: no JPEG, PNG or WebP", "c"),
        ([("c.png", png(2, 101))], 3, "an image that more than max_pixels = 10000 (101 x 101)", "c"),
        ([("c.png", png(2)), ("c.jpg", png(2))], 3, "more than one image", "c"),
        ([("c.png", png(2)), ("c.PNG", png(2))], 3, "two files of one suffix", "c"),
        ([("a.json", b"{}")], 3, "its key was there before", "a.again-2"),
        ([("c.png", png(2)), ("c.txt", b"\xff\xfe")], 3, "its caption is not UTF-8, or of more than 65536 bytes", "c"),
        ([("c.png", png(2)), ("c.txt", b" \n")], 3, "an empty caption", "c"),
        ([("c.png", png(2)), ("c.cls", b"cat")], 3, "its class is no number", "c"),
        ([("c.png", png(2)), ("c.cls", b"2")], 3, "a class beyond the manifest's 2", "c"),
    ],
)
def test_each_bad_sample_is_named(
    tmp_path: Path, files: list[tuple[str, bytes]], samples: int, problem: str, first: str
) -> None:
    shard = write(tmp_path, GOOD + files, samples)
    assert inspect(tmp_path, shard, classes=2).problems == {problem: (1, f"members/members-000000.tar {first}")}


def test_a_problem_is_counted_and_its_first_place_kept(tmp_path: Path) -> None:
    shard = write(tmp_path, [(f"{key}.txt", b"x") for key in "abc"], 3)
    assert inspect(tmp_path, shard).problems == {"no image": (3, "members/members-000000.tar a")}


def test_files_that_are_not_read_are_counted(tmp_path: Path) -> None:
    shard = write(tmp_path, [*GOOD, ("b.bin", b"x"), ("README", b"hello"), (".hidden.jpg", b"x")], 2)
    found = inspect(tmp_path, shard)
    assert found.problems == {}
    assert found.files == {"png": 2, "txt": 2, "cls": 1, "other": 3}


def test_another_count_another_byte_and_a_cut_are_seen(tmp_path: Path) -> None:
    shard = write(tmp_path, GOOD, 2)
    assert inspect(tmp_path, shard).problems == {}
    more = inspect(tmp_path, shard.model_copy(update={"samples": 3})).problems
    assert list(more) == ["holds 2 samples, its manifest says 3"]
    path = tmp_path / shard.name
    data = path.read_bytes()
    behind = 512 + len(GOOD[0][1])  # between the first file's end and the next header, where no tar reader looks
    path.write_bytes(data[:behind] + b"x" + data[behind + 1 :])
    assert list(inspect(tmp_path, shard).problems) == [
        "is not the file that its manifest describes: bytes or checksum differ"
    ]
    path.write_bytes(data[:-1] + b"x")
    assert next(iter(inspect(tmp_path, shard).problems)).startswith("cannot be read: zeros at byte ")
    path.write_bytes(data[:700])
    assert next(iter(inspect(tmp_path, shard).problems)).startswith("cannot be read: ")
    path.unlink()
    assert next(iter(inspect(tmp_path, shard).problems)).startswith("cannot be read: ")


def test_the_share_that_is_decoded_is_drawn_by_key(tiny_shards: Path) -> None:
    shards = read_manifest(Location.of(tiny_shards)).shards
    drawn = sum(inspect(tiny_shards, shard, share=0.5).decoded for shard in shards)
    assert 10 < drawn < 38
    assert drawn == sum(inspect(tiny_shards, shard, share=0.5).decoded for shard in shards)
    assert sum(inspect(tiny_shards, shard, share=0.0).decoded for shard in shards) == 0


def test_a_shard_without_a_manifest_is_described_as_the_writer_described_it(tmp_path: Path, tiny_shards: Path) -> None:
    shards = read_manifest(Location.of(tiny_shards)).shards
    total = Inspection()
    for shard in shards:
        total.add(inspect(tiny_shards, shard.name))
    assert (total.problems, tuple(total.shards)) == ({}, shards)


def test_shards_that_hold_nothing_or_cannot_be_read_are_not_described(tmp_path: Path) -> None:
    empty = write(tmp_path, [], 0)
    found = inspect(tmp_path, empty.name)
    assert (found.shards, list(found.problems)) == ([], ["holds no samples"])
    (tmp_path / empty.name).write_bytes(b"<html>" * 1000)
    found = inspect(tmp_path, empty.name)
    assert found.shards == []
    assert next(iter(found.problems)).startswith("cannot be read: ")
