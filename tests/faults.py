"""A proxy between S3 clients and the S3 server of the tests, which spoils the answers it is told to spoil."""

import asyncio
import fcntl
import math
import os
import socket
import struct
import termios
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from ldm_scale.files import pace, s3

ALWAYS = math.inf
# Faults that are answers of S3 itself, by their code.
STATUS = {
    "AccessDenied": 403,
    "AuthorizationHeaderMalformed": 400,
    "ExpiredToken": 400,
    "InternalError": 500,
    "InvalidObjectState": 403,
    "MissingContentLength": 411,
    "NoSuchBucket": 404,
    "NotImplemented": 501,
    "PermanentRedirect": 301,
    "RequestTimeTooSkewed": 403,
    "SlowDown": 503,
    "TooManyRequests": 429,
}
# S3 tells a token that it refuses.
ERROR = "<Error><Code>{code}</Code><Message>injected {code}</Message><Token-0>{token}</Token-0></Error>"
# S3 tells where a bucket is; without that botocore asks for ever.
REGION = {"x-amz-bucket-region": "eu-north-1"}
# Answers that are none of S3's, and a page of a listing that is empty and not the last.
PAGES = {
    "web page": "<html><body>Log in</body></html>",
    "empty": "",
    "endless": "<ListBucketResult><IsTruncated>true</IsTruncated>"
    "<NextContinuationToken>{number}</NextContinuationToken></ListBucketResult>",
}
# Headers between two neighbours; what a client expects is settled by the proxy.
NOT_PASSED_ON = {"connection", "keep-alive", "transfer-encoding", "expect"}


@dataclass(frozen=True)
class Fault:
    """What happens to the first `times` requests of a method whose path ends in `key`.

    kind: a code of S3's or a name in PAGES (the server never sees the request); `reset` or `stall` in place of an
    answer (nor then); `answer lost`, a reset when the server has done what was asked; `changed`, an answer with the
    ETag of another version; `huge`, one that declares 8 EiB; or, after `at` bytes of the body (at most all but one):
    `reset in body`, `stall in body`, `trickle` (twenty bytes a second), `truncated` (closed too early), `shortened`
    (and Content-Length says so), `flipped` (one bit of the next byte).
    """

    kind: str
    method: str = "GET"
    key: str = ""
    at: int = 0
    times: float = 1


class Proxy:
    """Counts the requests, and how often each fault struck."""

    def __init__(self, upstream: str, faults: tuple[Fault, ...]) -> None:
        self.requests: list[tuple[str, str]] = []
        self.struck: Counter[Fault] = Counter()
        self._upstream, self._faults = upstream, faults

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Run in a thread for the length of a block; the address."""
        loop, stopped = asyncio.new_event_loop(), asyncio.Event()
        # Whoever connects before the loop runs waits in the socket's queue.
        listener = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=loop.run_until_complete, args=(self._serve(listener, stopped),))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            loop.call_soon_threadsafe(stopped.set)
            thread.join()
            loop.close()

    async def _serve(self, listener: socket.socket, stopped: asyncio.Event) -> None:
        server = web.Server(self._answer, auto_decompress=False, handler_cancellation=True, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(auto_decompress=False, connector=connector) as self._session:
            await runner.setup()
            await web.SockSite(runner, listener).start()
            await stopped.wait()
            await runner.cleanup()

    def _next_fault(self, method: str, path: str) -> Fault | None:
        for fault in self._faults:
            if fault.method == method and path.endswith(fault.key) and self.struck[fault] < fault.times:
                self.struck[fault] += 1
                return fault
        return None

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = unquote(request.raw_path.partition("?")[0])
        self.requests.append((request.method, path))
        fault = self._next_fault(request.method, path)
        if fault is not None and fault.kind in {"reset", "stall", *STATUS, *PAGES}:
            await request.read()
            return await _refuse(request, fault.kind, len(self.requests))
        async with self._session.request(
            request.method,
            # Encoded: the signature is over the path as the client wrote it.
            URL(self._upstream + request.raw_path, encoded=True),
            headers=_passed_on(request.headers),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            data=request.content if request.can_read_body else None,
            allow_redirects=False,
        ) as answer:
            response = web.StreamResponse(
                status=answer.status, reason=answer.reason, headers=_passed_on(answer.headers)
            )
            if fault is not None:
                await _spoil(request, response, await answer.read(), fault)
                return response
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response


def _passed_on(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers.items() if name.lower() not in NOT_PASSED_ON]


async def _refuse(request: web.BaseRequest, kind: str, number: int) -> web.StreamResponse:
    if kind in PAGES:
        return web.Response(text=PAGES[kind].format(number=number), content_type="text/html")
    if kind in STATUS:
        body = (
            ""
            if request.method == "HEAD"
            else ERROR.format(code=kind, token=request.headers.get("X-Amz-Security-Token"))
        )
        return web.Response(status=STATUS[kind], text=body, content_type="application/xml", headers=REGION)
    await (_reset(request) if kind == "reset" else asyncio.sleep(ALWAYS))
    return web.Response()


async def _spoil(request: web.BaseRequest, response: web.StreamResponse, body: bytes, fault: Fault) -> None:
    if fault.kind == "answer lost":
        await _reset(request)
        return
    at = min(fault.at, len(body) - 1)
    if fault.kind == "flipped":
        body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
    if fault.kind == "changed":
        response.headers["ETag"] = '"another"'
    response.content_length = {"shortened": at, "huge": 2**63 - 1}.get(fault.kind, len(body))
    await response.prepare(request)
    await response.write(body if fault.kind in {"flipped", "changed", "huge"} else body[:at])
    if fault.kind == "reset in body":
        await _reset(request)
    elif fault.kind == "stall in body":
        await asyncio.sleep(ALWAYS)
    elif fault.kind == "trickle":
        for place in range(at, len(body)):
            await asyncio.sleep(0.05)
            await response.write(body[place : place + 1])
    elif fault.kind in {"truncated", "huge"}:
        assert request.transport is not None
        request.transport.close()
    else:
        assert fault.kind in {"flipped", "changed", "shortened"}, fault


async def _reset(request: web.BaseRequest) -> None:
    """End the connection with RST, when the client's side has taken all that was sent before."""
    transport = request.transport
    assert isinstance(transport, asyncio.Transport)
    connection = transport.get_extra_info("socket")
    while not transport.is_closing() and (transport.get_write_buffer_size() or _unacknowledged(connection)):
        await asyncio.sleep(0.001)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _unacknowledged(connection: socket.socket) -> int:
    """Bytes that the other side has not acknowledged."""
    return int(struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))[0])


@contextmanager
def proxied(*faults: Fault, patient: bool = False) -> Iterator[Proxy]:
    """A proxy before the S3 server for the length of a block; this process's package and what it starts go there.

    The package hardly waits before it tries again, unless it is to be as patient as ever. It waits a second for bytes
    if one of the faults is to hold them back; else as long as ever: a busy machine is late.
    """
    proxy = Proxy(os.environ["AWS_ENDPOINT_URL"], faults)
    with proxy.serve() as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", address)
        if any(fault.kind in {"stall", "stall in body", "trickle"} for fault in faults):
            patch.setattr(pace, "STALL", 1)
        if not patient:
            patch.setattr(s3, "LONGEST_WAIT", 0.01)
            patch.setattr(s3, "PATIENCE", 0)
        s3.client.cache_clear()
        try:
            yield proxy
        finally:
            s3.client.cache_clear()
