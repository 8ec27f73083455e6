"""All parts of the benchmark, one after the other."""

from collections.abc import Callable, Iterator
from multiprocessing import get_context
from typing import Any

from ldm_scale.benchmarks.audit import run_audit_benchmark
from ldm_scale.benchmarks.device import run_device_benchmark
from ldm_scale.benchmarks.evidence import run_evidence_benchmark
from ldm_scale.benchmarks.influence import run_influence_benchmark
from ldm_scale.benchmarks.lines import Line
from ldm_scale.benchmarks.options import BenchmarkConfig
from ldm_scale.benchmarks.reduce import run_reduce_benchmark
from ldm_scale.benchmarks.scale import run_scale_benchmark
from ldm_scale.benchmarks.sd import run_sd_benchmark
from ldm_scale.benchmarks.stream import run_stream_benchmark
from ldm_scale.benchmarks.train import run_train_benchmark
from ldm_scale.config.base import Config
from ldm_scale.errors import unknown_name
from ldm_scale.terminal import say

# What runs each part of options.PARTS.
RUNNERS: dict[str, Callable[[Any], Iterator[Line]]] = {
    "audit": run_audit_benchmark,
    "influence": run_influence_benchmark,
    "stream": run_stream_benchmark,
    "reduce": run_reduce_benchmark,
    "scale": run_scale_benchmark,
    "sd": run_sd_benchmark,
    "device": run_device_benchmark,
    "train": run_train_benchmark,
    "evidence": run_evidence_benchmark,
}


def run_part(part: str, config: Config) -> list[Line]:
    """The lines of one part, each of which is said as it comes."""
    lines = []
    for line in RUNNERS[part](config):
        say(str(line))
        lines.append(line)
    return lines


def run_suite(config: BenchmarkConfig) -> list[Line]:
    """The lines of the parts asked for, each of which is said as it comes.

    Each part has a process of its own, so that no part's memory is another's. Raises UsageError for an unknown part.
    """
    for part in config.parts:
        if part not in RUNNERS:
            raise unknown_name("part", part, RUNNERS)
    lines: list[Line] = []
    for part in config.parts:
        with get_context("spawn").Pool(1) as pool:
            lines += pool.apply(run_part, (part, getattr(config, part)))
    return lines
