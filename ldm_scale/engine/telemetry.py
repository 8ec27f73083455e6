"""What the processes of a job report to Prometheus, through Ray's metrics ports: each as ray_<its name here>.

For watching only. A task that Ray does again counts again, and a process that is killed takes along what it has not
reported yet; what a run has is in its directory.
"""

import functools
import re
import time
from collections import Counter as Counts
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import ray
from ray.util.metrics import Counter, Gauge, Histogram

from ldm_scale.files import s3
from ldm_scale.files.rundir import brief

if TYPE_CHECKING:
    from ldm_scale.auditor import Cost  # imports torch: 200 MB that a reader has no use for

# What each means, and its own tags; Ray tags all with node, worker and session, too. A name is ldm_scale_ and this.
COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "samples_total": ("Samples whose row is committed.", ()),
    "rejects_total": ("Samples whose reject is committed.", ("stage", "reason")),
    "read_bytes_total": ("Bytes of the shards that were read to their end.", ()),
    "denoiser_evaluations_total": ("Denoiser evaluations of the audit, one a sample.", ()),
    "decoder_products_total": ("Products of the audit with the decoder's Jacobian or its transpose, one a sample.", ()),
    "s3_retries_total": ("Attempts at S3 after a first one.", ("operation",)),
}
# Ray forgets a gauge two reports (20 seconds) after it was set: whoever shows one looks back for the last value.
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "pool_auditors": ("Auditors of the pool that are alive.", ()),
    "gpu_memory_bytes": ("An auditor's GPU: the peak of its tensors, and the total there is.", ("gpu", "kind")),
}
HISTOGRAMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "stage_seconds": (
        "Seconds of a shard (read), a batch (decode, encode, geometry, attacks) or a part (commit).",
        ("stage",),
    ),
}
# Upper bounds of the histogram's buckets: 1, 2, 5, 10, ... milliseconds to a quarter of an hour.
SECONDS = [step * 10.0**power for power in range(-3, 3) for step in (1, 2, 5)] + [1000.0]

T = TypeVar("T")

# Retries that were counted already.
_reported: Counts[str] = Counts()


# Each is made once a process, at its first use there.
@functools.cache
def _counter(name: str) -> Counter:
    return Counter(f"ldm_scale_{name}", *COUNTERS[name])


@functools.cache
def _gauge(name: str) -> Gauge:
    return Gauge(f"ldm_scale_{name}", *GAUGES[name])


@functools.cache
def _histogram(name: str) -> Histogram:
    description, tags = HISTOGRAMS[name]
    return Histogram(f"ldm_scale_{name}", description, SECONDS, tags)


def reason_kind(reason: str) -> str:
    """A reject's reason as a label: without details, and with its numbers, which come from the data, as N."""
    return re.sub(r"\d+", "N", brief(reason))


def _add(name: str, count: int, **tags: str) -> None:
    if count:  # Ray refuses to add nothing
        _counter(name).inc(count, tags)


def _observe(stage: str, seconds: float) -> None:
    _histogram("stage_seconds").observe(seconds, {"stage": stage})
    _count_retries()


def _count_retries() -> None:
    """Count this process's retries at S3 since it was last asked."""
    for operation, count in (s3.retries - _reported).items():
        _add("s3_retries_total", count, operation=operation)
        _reported[operation] += count


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """Observe how long a block took."""
    start = time.perf_counter()
    yield
    _observe(stage, time.perf_counter() - start)


def timed_each(stage: str, items: Iterable[T]) -> Iterator[T]:
    """The same items; how long all of them took to make is observed after the last, without the time they waited."""
    seconds, start = 0.0, time.perf_counter()
    for item in items:
        seconds += time.perf_counter() - start
        yield item
        start = time.perf_counter()
    _observe(stage, seconds + time.perf_counter() - start)


def shard_read(size: int) -> None:
    """Count the bytes of a shard."""
    _add("read_bytes_total", size)


def audited(cost: "Cost") -> None:
    """Count what a batch took."""
    for stage, seconds in cost.seconds.items():
        _observe(stage, seconds)
    _add("denoiser_evaluations_total", cost.evaluations)
    _add("decoder_products_total", cost.products)


def gpu_memory(peak: int, total: int) -> None:
    """Report the bytes of this worker's GPU: the most that its tensors held, and all there are."""
    gpu = ",".join(map(str, ray.get_gpu_ids()))
    _gauge("gpu_memory_bytes").set(peak, {"gpu": gpu, "kind": "peak"})
    _gauge("gpu_memory_bytes").set(total, {"gpu": gpu, "kind": "total"})


def committed(rows: pa.Table, rejects: pa.Table) -> None:
    """Count what was committed."""
    _add("samples_total", len(rows))
    kinds = Counts((row["stage"], reason_kind(row["reason"])) for row in rejects.to_pylist())
    for (stage, reason), count in kinds.items():
        _add("rejects_total", count, stage=stage, reason=reason)


def pool_size(auditors: int) -> None:
    """Report how many auditors are alive; to be called again every minute."""
    _gauge("pool_auditors").set(auditors)
    _count_retries()
