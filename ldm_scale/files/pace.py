"""Answers of S3 that come too slowly, or never end: cut off, as if the connection had broken."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from http.client import HTTPResponse
from typing import Any

from botocore.awsrequest import AWSHTTPConnection, AWSHTTPSConnection

# Seconds without a byte after which a request has stalled, and bytes a second that must come at least, over as long.
STALL = 30
LEAST_RATE = 10_000

# Bytes that an answer may have, if not as many as it likes.
_most: ContextVar[float] = ContextVar("most", default=float("inf"))


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Let no answer to a request of the block have more bytes."""
    token = _most.set(size)
    try:
        yield
    finally:
        _most.reset(token)


class _Paced(io.RawIOBase):
    """A connection's bytes, headers included; only the time that is spent waiting for them counts."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self._left = _most.get()
        self._begin()

    def _begin(self) -> None:
        self._waited, self._came = 0.0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        start = time.monotonic()
        count = int(self._raw.readinto(buffer) or 0)
        self._waited += time.monotonic() - start
        self._came += count
        self._left -= count
        if self._left < 0:
            # No OSError, which would be told as a lost connection.
            raise ValueError("the answer has more bytes than any answer to such a request")
        if self._waited >= STALL:
            if self._came < STALL * LEAST_RATE:
                raise TimeoutError(f"{self._came} bytes in {self._waited:.0f} s")
            self._begin()
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _PacedResponse(HTTPResponse):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fp = io.BufferedReader(_Paced(self.fp.detach()))


def keep_pace() -> None:
    """Have all of botocore's connections of this process cut such answers off."""
    for connection in (AWSHTTPConnection, AWSHTTPSConnection):
        connection.response_class = _PacedResponse
