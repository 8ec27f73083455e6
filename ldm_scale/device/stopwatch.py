"""How long the stages of work on a device take, measured without holding it up."""

import time
from itertools import pairwise

import torch


class Stopwatch:
    """Seconds between marks: by the clock on the CPU, by events in the device's stream on cuda."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._times: list[float] = []
        self._events: list[torch.cuda.Event] = []
        self.mark()

    def mark(self) -> None:
        """End a stage and begin the next one; the first begins when the stopwatch is made."""
        if self._device.type != "cuda":
            self._times.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        self._events.append(event)

    def seconds(self) -> list[float]:
        """Seconds of each stage. On cuda it waits for the last mark; whoever reads the results waits for it anyway."""
        if self._events:
            self._events[-1].synchronize()
        events = (start.elapsed_time(end) / 1000 for start, end in pairwise(self._events))
        return [*events, *(end - start for start, end in pairwise(self._times))]
