"""Shards to preprocessed images as a Ray Data stream: small Arrow blocks of bytes, then decoded in CPU tasks."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, islice

import numpy as np
import pyarrow as pa
import ray
from ray.data import DataContext, Dataset

from ldm_scale.config.audit import ComputeConfig
from ldm_scale.config.data import ImageConfig
from ldm_scale.data.images import BadImage, open_image, preprocess
from ldm_scale.data.plain import plain_features
from ldm_scale.data.samples import Sample
from ldm_scale.data.shards import read_shard
from ldm_scale.data.task import ReadTask
from ldm_scale.engine import telemetry
from ldm_scale.engine.blame import blamed
from ldm_scale.files.storage import Location
from ldm_scale.schema import DECODED, PLAIN, STORED, sample_id

# Of all that the samples of a block hold, and samples: with what holds them on their way into a table, a reader keeps
# well below 300 MB.
BLOCK_BYTES = 4 << 20
BLOCK_SAMPLES = 4096
# Batches that are decoded at once, at most.
BATCHES_DECODED = 8
# Images that a thread decodes before it takes others: taking them costs as much as a tenth of decoding a small one.
IMAGES_TAKEN = 32
# What decoding leaves as it is.
KEPT = ("sample_id", "member", "captions", "label", "flaws")

# Pixels with the sample's plain numbers, or the stage and the reason of a reject.
Decoded = tuple[bytes | None, np.ndarray | None, str | None, str | None]


def _table(task: ReadTask, samples: list[tuple[Sample, bool]]) -> pa.Table:
    return pa.table(
        {
            "sample_id": [sample_id(task.shard.stem, sample.key) for sample, _ in samples],
            "member": [member for _, member in samples],
            "image": [sample.image for sample, _ in samples],
            "captions": [sample.captions for sample, _ in samples],
            "label": [sample.label for sample, _ in samples],
            "fault": [sample.fault for sample, _ in samples],
            "flaws": [" and ".join(sample.flaws) for sample, _ in samples],
        },
        schema=STORED,
    )


def _held(sample: Sample) -> int:
    """Bytes of memory that a sample takes while it waits for its block."""
    return len(sample.image) + sum(map(sys.getsizeof, (sample.key, *sample.captions)))


def read_blocks(task: ReadTask) -> Iterator[pa.Table]:
    """The wanted samples of one shard, in tables of about BLOCK_BYTES and of BLOCK_SAMPLES at most."""
    samples: list[tuple[Sample, bool]] = []
    size = 0
    for sample in islice(read_shard(Location(task.folder), task.shard), *(task.span or (None,))):
        member = task.is_member(sample.key)
        if member is None:
            continue
        # An audit has no use for metadata, which may be many times as large as all else.
        samples.append((replace(sample, metadata=None), member))
        size += _held(sample)
        if size > BLOCK_BYTES or len(samples) == BLOCK_SAMPLES:
            table = _table(task, samples)
            # Before the table is handed on, which holds it all once more.
            samples, size = [], 0
            yield table
    if samples:
        yield _table(task, samples)


def _decode(
    stored: pa.BinaryScalar,
    fault: str | None,
    captions: list[str],
    label: int | None,
    config: ImageConfig,
    size: int,
) -> Decoded:
    if fault is not None:
        return None, None, "read", fault
    data = stored.as_py()
    try:
        image = open_image(data, config.max_pixels)
        pixels = preprocess(image, config, size)
    except BadImage as error:
        return None, None, "decode", str(error)
    return pixels.tobytes(), plain_features(data, captions, label, image.size, pixels), None, None


def decode_block(table: pa.Table, config: ImageConfig, size: int, threads: int = 1) -> pa.Table:
    """Encoded images to uint8 (3, size, size) bytes; a bad one gets none, but the stage and reason of its reject.

    So many at once: Pillow decodes and resizes beside other threads.
    """

    def decode_some(batch: pa.RecordBatch) -> list[Decoded]:
        faults, captions, labels = (batch[name].to_pylist() for name in ("fault", "captions", "label"))
        samples = zip(batch["image"], faults, captions, labels, strict=True)
        return [_decode(*sample, config, size) for sample in samples]

    with ThreadPoolExecutor(threads) as pool:
        some = table.select(["image", "fault", "captions", "label"]).to_batches(max_chunksize=IMAGES_TAKEN)
        decoded = [*chain.from_iterable(pool.map(decode_some, some))]
    pixels, plain, stages, reasons = zip(*decoded, strict=True) if decoded else ((), (), (), ())
    columns = {name: table[name] for name in KEPT}
    made = {"plain": plain, "pixels": pixels, "stage": stages, "reject": reasons}
    return pa.table({**columns, **made}, schema=DECODED)


def stream_images(tasks: list[ReadTask], config: ImageConfig, size: int, compute: ComputeConfig) -> Dataset:
    """The decoded samples of all tasks; different CPU shares keep Ray from fusing reading and decoding into one."""

    # Ray's dashboard shows these names.
    def read_shards(rows: pa.Table) -> Iterator[pa.Table]:
        for encoded in rows["task"]:
            task = ReadTask.model_validate_json(encoded.as_py())
            with blamed():
                yield from telemetry.timed_each("read", read_blocks(task))
            telemetry.shard_read(task.shard.bytes)

    def decode_images(table: pa.Table) -> pa.Table:
        with blamed(), telemetry.timed("decode"):
            return decode_block(table, config, size, max(1, int(compute.cpus_per_decoder)))

    context = DataContext.get_current().copy()
    # An auditor's rows leave it when it is done with a block: blocks of about a batch, so that rows are soon committed.
    context.target_max_block_size = compute.batch * _decoded_bytes(size)
    # An auditor has two batches at most (engine/pool.py), so that a pool whose auditors all have them is to grow. Ray
    # waits for 175% of what they can work on at once, which two batches never are.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 0.9
    with DataContext.current(context):
        # One block a shard makes each shard a read task of its own.
        rows = ray.data.from_items([{"task": task.model_dump_json()} for task in tasks], override_num_blocks=len(tasks))
    stored = rows.map_batches(read_shards, batch_size=1, batch_format="pyarrow", num_cpus=compute.cpus_per_reader)
    return stored.map_batches(
        decode_images,
        # Several batches while their pixels are few, since each task has its own cost.
        batch_size=max(compute.batch, min(BATCHES_DECODED * compute.batch, BLOCK_BYTES // _decoded_bytes(size))),
        batch_format="pyarrow",
        num_cpus=compute.cpus_per_decoder,
    )


def _decoded_bytes(size: int) -> int:
    """Of a decoded sample: pixels and plain numbers; ids and captions apart, which Ray's slack holds."""
    return 3 * size * size + 4 * len(PLAIN)
