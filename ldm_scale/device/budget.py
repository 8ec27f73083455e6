"""How many rows are computed at a time: halved if a device's memory does not hold them, and remembered."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from ldm_scale.errors import RunError

T = TypeVar("T")


@dataclass
class Budget:
    """At most `limit` rows at a time, fewer for good once so many did not fit.

    Attributes:
        limit: rows, at least 1.
        what: a row, in words, for the error if not even one fits.
    """

    limit: int
    what: str

    def run(self, work: Callable[[slice], T], count: int) -> list[T]:
        """work(rows) for consecutive slices of 0 ... count - 1.

        Args:
            work: computes some rows. If it runs out of memory, it is called again with half as many, so it should
                depend on nothing but them.
            count: rows in all.

        Returns:
            What work returned for each slice, in their order.

        Raises:
            RunError: One row does not fit.

        Example:
            >>> Budget(4, "row").run(lambda rows: (rows.start, rows.stop), 10)
            [(0, 4), (4, 8), (8, 10)]
        """
        results: list[T] = []
        done = 0
        while done < count:
            rows = slice(done, min(count, done + self.limit))
            try:
                results.append(work(rows))
            except torch.OutOfMemoryError:
                # The next round tries again: by then this traceback no longer keeps alive what the call has computed.
                self.halve(rows.stop - rows.start)
            else:
                done = rows.stop
        return results

    def halve(self, rows: int) -> None:
        """From now on take half as many rows at a time as these, which did not fit.

        Raises:
            RunError: It was one row.
        """
        if rows == 1:
            raise RunError(f"the device's memory does not hold one {self.what}")
        self.limit = rows // 2
