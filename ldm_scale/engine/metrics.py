"""What the processes of a job tell Prometheus, through Ray's metrics ports: each as ray_<its name here>.

For watching only. A task that Ray does again counts again, and a process that is killed takes along what it has not
told yet; what a run has is in its directory.
"""

import functools
import re
import time
from collections import Counter as Counts
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import ray
from ray.util.metrics import Counter, Gauge, Histogram

from ldm_scale import s3
from ldm_scale.rundir import brief

if TYPE_CHECKING:
    from ldm_scale.auditor import Cost  # imports torch: 200 MB that a reader has no use for

# Upper bounds of the histogram's buckets: 1, 2, 5, 10, ... milliseconds to a quarter of an hour.
SECONDS = [step * 10.0**power for power in range(-3, 3) for step in (1, 2, 5)] + [1000.0]

T = TypeVar("T")


@dataclass(frozen=True)
class Metrics:
    """All metrics there are. Ray tags each with its node, worker and session, too."""

    samples: Counter
    rejects: Counter
    read: Counter
    seconds: Histogram
    evaluations: Counter
    products: Counter
    gpu_memory: Gauge
    pool: Gauge
    retries: Counter


@functools.cache
def metrics() -> Metrics:
    """This process's own; made once, as Ray's objects are not pickled, and needing no connected Ray."""
    return Metrics(
        samples=Counter("ldm_scale_samples_total", "Samples whose row is committed."),
        rejects=Counter("ldm_scale_rejects_total", "Samples whose reject is committed.", ("stage", "reason")),
        read=Counter("ldm_scale_read_bytes_total", "Bytes of the shards that were read to their end."),
        seconds=Histogram(
            "ldm_scale_stage_seconds",
            "Seconds of a shard (read), a batch (decode, encode, geometry, attacks) or a part (commit).",
            SECONDS,
            ("stage",),
        ),
        evaluations=Counter("ldm_scale_denoiser_evaluations_total", "Denoiser evaluations of the audit, one a sample."),
        products=Counter(
            "ldm_scale_decoder_products_total",
            "Products with the decoder's Jacobian or its transpose in the audit, one a sample.",
        ),
        gpu_memory=Gauge(
            "ldm_scale_gpu_memory_bytes",
            "Memory of an auditor's GPU: the peak of its tensors, and the total there is.",
            ("gpu", "kind"),
        ),
        pool=Gauge("ldm_scale_pool_auditors", "Auditors of the pool that are alive."),
        retries=Counter("ldm_scale_s3_retries_total", "Attempts at S3 after a first one.", ("operation",)),
    )


def reason_kind(reason: str) -> str:
    """A reject's reason as a label: without details, and with its numbers, which come from the data, as N."""
    return re.sub(r"\d+", "N", brief(reason))


def _add(counter: Counter, count: int, **tags: str) -> None:
    if count:  # Ray refuses to add nothing
        counter.inc(count, tags)


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """Observe how long a block took."""
    start = time.perf_counter()
    yield
    metrics().seconds.observe(time.perf_counter() - start, {"stage": stage})


def timed_each(stage: str, items: Iterable[T]) -> Iterator[T]:
    """The same items; how long all of them took to make is observed after the last, without the time they waited."""
    seconds, start = 0.0, time.perf_counter()
    for item in items:
        seconds += time.perf_counter() - start
        yield item
        start = time.perf_counter()
    metrics().seconds.observe(seconds + time.perf_counter() - start, {"stage": stage})


def shard_read(size: int) -> None:
    """Count the bytes of a shard."""
    _add(metrics().read, size)


def audited(cost: "Cost") -> None:
    """Count what a batch took."""
    for stage, seconds in cost.seconds.items():
        metrics().seconds.observe(seconds, {"stage": stage})
    _add(metrics().evaluations, cost.evaluations)
    _add(metrics().products, cost.products)


def gpu_memory(peak: int, total: int) -> None:
    """Tell the bytes of this worker's GPU: the most that its tensors held, and all there are."""
    gpu = ",".join(map(str, ray.get_gpu_ids()))
    metrics().gpu_memory.set(peak, {"gpu": gpu, "kind": "peak"})
    metrics().gpu_memory.set(total, {"gpu": gpu, "kind": "total"})


def committed(rows: pa.Table, rejects: pa.Table) -> None:
    """Count what was committed."""
    _add(metrics().samples, len(rows))
    kinds = Counts((row["stage"], reason_kind(row["reason"])) for row in rejects.to_pylist())
    for (stage, reason), count in kinds.items():
        _add(metrics().rejects, count, stage=stage, reason=reason)


def pool_size(auditors: int) -> None:
    """Tell how many auditors are alive."""
    metrics().pool.set(auditors)


def _retried(operation: str) -> None:
    _add(metrics().retries, 1, operation=operation)


# In every process that imports this: the driver, and all workers of an audit.
s3.on_retry = _retried
