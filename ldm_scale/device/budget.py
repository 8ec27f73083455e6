"""How many rows are computed at a time: halved where a device's memory does not hold them, and remembered."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from ldm_scale.errors import RunError

T = TypeVar("T")


@dataclass
class Budget:
    """At most `limit` rows at a time, fewer for good once so many did not fit.

    what: a row, in words, for the error where not even one fits.
    """

    limit: int
    what: str

    def run(self, work: Callable[[slice], T], count: int) -> list[T]:
        """work(rows) for consecutive slices that together are 0 ... count - 1, in their order.

        Where it runs out of memory it is asked again for half as many rows, so it should depend on nothing but them.
        Raises RunError where one row does not fit.
        """
        results: list[T] = []
        done = 0
        while done < count:
            rows = slice(done, min(count, done + self.limit))
            try:
                results.append(work(rows))
            except torch.OutOfMemoryError:
                # The next round asks again, when this traceback no longer keeps alive what the call has computed.
                self.halve(rows.stop - rows.start)
            else:
                done = rows.stop
        return results

    def halve(self, rows: int) -> None:
        """Take half of so many rows at a time from now on, as they did not fit.

        Raises RunError for one row.
        """
        if rows == 1:
            raise RunError(f"the device's memory does not hold one {self.what}")
        self.limit = rows // 2
