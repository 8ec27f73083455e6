"""Seconds between marks, by the clock or by the events of a device."""

from itertools import count

import pytest
import torch

from ldm_scale.device.stopwatch import Stopwatch


def test_on_the_cpu_a_stage_takes_what_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 10.5, 13.5])
    monkeypatch.setattr("ldm_scale.device.stopwatch.time.perf_counter", lambda: next(times))
    stopwatch = Stopwatch(torch.device("cpu"))
    stopwatch.mark()
    stopwatch.mark()
    assert stopwatch.seconds() == [0.5, 3.0]


def test_on_cuda_events_are_set_in_the_stream_and_read_when_the_last_one_has_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stand-in for CUDA: event number i happens at i^2 seconds, and can be asked once the last one was waited for."""
    numbers, waited = count(), list[int]()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.number = -1

        def record(self, stream: str) -> None:
            assert stream == "stream of cuda:1"
            self.number = next(numbers)

        def synchronize(self) -> None:
            waited.append(self.number)

        def elapsed_time(self, end: "Event") -> float:
            assert waited == [2]
            return 1000.0 * (end.number**2 - self.number**2)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    stopwatch = Stopwatch(torch.device("cuda:1"))
    stopwatch.mark()
    stopwatch.mark()
    assert waited == []
    assert stopwatch.seconds() == [1.0, 3.0]
