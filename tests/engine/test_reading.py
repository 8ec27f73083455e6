"""From shard tasks to decoded images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ldm_scale.config.audit import ComputeConfig
from ldm_scale.config.data import ImageConfig
from ldm_scale.data.images import preprocess
from ldm_scale.data.manifest import ShardInfo, read_manifest
from ldm_scale.data.samples import Sample
from ldm_scale.data.task import ReadTask
from ldm_scale.engine import reading
from ldm_scale.engine.reading import decode_block, read_blocks, stream_images
from ldm_scale.files.storage import Location
from ldm_scale.schema import as_pixels
from tests.conftest import make_image
from tests.shards import write_shards


@pytest.fixture
def shard(tiny_shards: Path) -> ShardInfo:
    return read_manifest(Location.of(tiny_shards)).shards[0]


def task(tiny_shards: Path, shard: ShardInfo, **changes: object) -> ReadTask:
    return ReadTask.model_validate({"folder": str(tiny_shards), "shard": shard, "membership": True} | changes)


def ids(tables: object) -> list[str]:
    return [key for table in tables for key in table["sample_id"].to_pylist()]  # type: ignore[attr-defined]


def test_a_block_holds_what_the_shard_holds(tiny_shards: Path, shard: ShardInfo) -> None:
    (table,) = read_blocks(task(tiny_shards, shard))
    assert len(table) == shard.samples
    assert all(key.startswith(f"{shard.stem}/") for key in table["sample_id"].to_pylist())
    assert table["member"].to_pylist() == [True] * shard.samples
    number = int(table["sample_id"][0].as_py()[-3:])
    assert table["captions"][0].as_py() == [f"picture {number}"]
    assert table["label"][0].as_py() == (0 if number % 2 else 1)


def test_small_blocks_hold_the_same_samples(
    tiny_shards: Path, shard: ShardInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ids(read_blocks(task(tiny_shards, shard)))
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1)
    tables = list(read_blocks(task(tiny_shards, shard)))
    assert [len(table) for table in tables] == [1] * shard.samples
    assert ids(tables) == whole


def test_all_that_a_waiting_sample_holds_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 100_000)
    samples = {
        "images": [Sample(f"{number}", bytes(60_000), "png") for number in range(6)],
        "captions": [Sample(f"{number}", b"1", "png", ("猫" * 20_000,)) for number in range(6)],
        "many captions": [Sample(f"{number}", b"1", "png", ("ab",) * 1200) for number in range(6)],
        "keys": [Sample(f"{number:03d}" + "x" * 990, b"", "png") for number in range(240)],
    }
    for name, some in samples.items():
        (info,) = write_shards(some, Location.of(tmp_path / name), "members")
        tables = list(read_blocks(ReadTask(folder=str(tmp_path / name), shard=info, membership=True)))
        assert sum(map(len, tables)) == len(some), name
        # Each with the sample that was one too many.
        assert max(table.nbytes for table in tables) < 220_000, name
        assert len(tables) in (2, 3), name


def test_metadata_are_not_kept_while_samples_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[Sample] = []

    def table(task: ReadTask, samples: list[tuple[Sample, bool]]) -> pa.Table:
        waiting.extend(sample for sample, _ in samples)
        return pa.table({})

    monkeypatch.setattr(reading, "_table", table)
    samples = [Sample(f"{number}", b"1", "png", ("a", "b"), metadata={"x": [[]] * 1000}) for number in range(3)]
    (info,) = write_shards(samples, Location.of(tmp_path), "members")
    list(read_blocks(ReadTask(folder=str(tmp_path), shard=info, membership=True)))
    assert waiting == [replace(sample, metadata=None) for sample in samples]


def test_blocks_have_so_many_samples_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK_SAMPLES", 7)
    (info,) = write_shards([Sample(f"{number}", b"", "png") for number in range(16)], Location.of(tmp_path), "members")
    tables = list(read_blocks(ReadTask(folder=str(tmp_path), shard=info, membership=True)))
    assert [len(table) for table in tables] == [7, 7, 2]


def test_done_and_unlisted_samples_are_left_out(tiny_shards: Path, shard: ShardInfo) -> None:
    keys = [key.split("/", 1)[1] for key in ids(read_blocks(task(tiny_shards, shard)))]
    listed = {keys[0]: False, keys[1]: True, keys[2]: True}
    (table,) = read_blocks(task(tiny_shards, shard, membership=listed, done=[keys[1]]))
    assert ids([table]) == [f"{shard.stem}/{keys[0]}", f"{shard.stem}/{keys[2]}"]
    assert table["member"].to_pylist() == [False, True]


def test_a_task_survives_its_row(tiny_shards: Path, shard: ShardInfo) -> None:
    original = task(tiny_shards, shard, membership={"a": True}, done=["b"])
    assert ReadTask.model_validate_json(original.model_dump_json()) == original


def test_bad_images_keep_their_row_and_get_a_reason(tmp_path: Path) -> None:
    good = Path(tmp_path / "good.png")
    make_image(3, 20).save(good)
    samples = [
        Sample("good", good.read_bytes(), "png", ("a caption",), 2),
        Sample("broken", b"no image at all", "png"),
        Sample("large", good.read_bytes(), "png"),
    ]
    folder = Location.of(tmp_path / "shards")
    (info,) = write_shards(samples[:2], folder, "members")
    (stored,) = read_blocks(ReadTask(folder=folder.uri, shard=info, membership=True))
    decoded = decode_block(stored, ImageConfig(), 16)
    assert decode_block(stored, ImageConfig(), 16, threads=3).equals(decoded)
    expected = preprocess(make_image(3, 20), ImageConfig(), 16)
    np.testing.assert_array_equal(np.frombuffer(decoded["pixels"][0].as_py(), np.uint8).reshape(3, 16, 16), expected)
    assert decoded["reject"][0].as_py() is None
    assert decoded["pixels"][1].as_py() is None
    assert "cannot be decoded" in decoded["reject"][1].as_py()
    oversize = decode_block(stored, ImageConfig(max_pixels=399), 16)
    assert "more than max_pixels = 399 (20 x 20)" in oversize["reject"][0].as_py()


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize(("cpus", "threads"), [(0.4, 1), (1, 1), (2.9, 2)])
def test_a_decoder_has_as_many_threads_as_cpus(
    tiny_shards: Path, cpus: float, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = []
    kind = reading.ThreadPoolExecutor
    monkeypatch.setattr(reading, "ThreadPoolExecutor", lambda count: pools.append(count) or kind(count))
    tasks = [task(tiny_shards, shard) for shard in read_manifest(Location.of(tiny_shards)).shards]
    stream = stream_images(tasks, ImageConfig(), 16, ComputeConfig(cpus_per_decoder=cpus))
    assert len(ids(stream.iter_batches(batch_size=None))) == 48
    assert set(pools) == {threads}


@pytest.mark.usefixtures("local_ray")
def test_images_stream_in_blocks_of_about_a_batch(tiny_shards: Path) -> None:
    """What an auditor takes at a time it also hands on at a time; larger blocks would be lost with it as a whole."""
    manifest = read_manifest(Location.of(tiny_shards))
    tasks = [task(tiny_shards, shard) for shard in manifest.shards]
    stream = stream_images(tasks, ImageConfig(), 16, ComputeConfig(batch_size=4))
    blocks = list(stream.iter_batches(batch_size=None, batch_format="pyarrow"))
    assert len(ids(blocks)) == len(set(ids(blocks))) == 48
    assert max(map(len, blocks)) <= 6


def test_pixels_are_those_of_the_column_however_it_lies_in_memory() -> None:
    images = [np.random.default_rng(seed).bytes(3 * 4 * 4) for seed in range(9)]
    column = pa.chunked_array([images[:4], [], images[4:]])
    mask = pa.array([True, False] * 4 + [True])
    for found, expected in (
        (column, images),
        (column.slice(2, 5), images[2:7]),
        (column.slice(5, 2), images[5:7]),
        (column.filter(mask), images[::2]),
        (column.slice(1, 1), images[1:2]),
    ):
        pixels = as_pixels(found, 4)
        assert pixels.shape == (len(expected), 3, 4, 4)
        assert pixels.tobytes() == b"".join(expected)
