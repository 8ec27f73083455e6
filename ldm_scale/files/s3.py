"""S3 through boto3: one client a process, its retries, and errors in one line that say what to fix."""

import functools
import hashlib
import io
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any, BinaryIO, TypeVar

import boto3
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
)
from botocore.parsers import ResponseParserError
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from ldm_scale.errors import ExistsError, RunError, UsageError, one_line
from ldm_scale.files import pace
from ldm_scale.terminal import say

# Whatever is asked for is given up when it has failed as often and for as many seconds since it first failed; with
# waits of at most so many seconds between the attempts. After the shorter time the user is told.
ATTEMPTS = 8
PATIENCE = 120
NOTICE = 10
LONGEST_WAIT = 30
CHUNK = 1 << 20
# Pages of a thousand names that a listing may have, and bytes that any answer but an object may have.
PAGES = 5_000
LONGEST_ANSWER = 16 << 20
# Credentials that somebody may be about to renew: the chain is asked for others.
EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired")
# What the user can fix, by the server's code.
CAUSES = {
    "NoSuchBucket": "there is no such bucket",
    "AccessDenied": "access denied: these credentials may not do this",
    "AllAccessDisabled": "access denied: the bucket is closed",
    "InvalidAccessKeyId": "the access key is not known there",
    "SignatureDoesNotMatch": "the secret key is not that of the access key",
    **dict.fromkeys(EXPIRED, "the session token has expired; log in again"),
    "InvalidToken": "the session token is not valid; log in again",
    "RequestTimeTooSkewed": "this machine's clock is off; set it",
    "RequestExpired": "this machine's clock is off; set it",
    "AuthorizationHeaderMalformed": "the bucket is in another region; set AWS_DEFAULT_REGION",
    "PermanentRedirect": "the bucket is in another region; set AWS_DEFAULT_REGION",
    "IllegalLocationConstraintException": "the bucket is in another region; set AWS_DEFAULT_REGION",
    "InvalidBucketName": "this is no bucket's name",
    "InvalidObjectState": "it is archived (in S3 Glacier, say); restore it first",
    **dict.fromkeys(
        ("MissingContentLength", "NotImplemented"),
        "this server lacks what boto3 asks of it; AWS_REQUEST_CHECKSUM_CALCULATION=when_required may help",
    ),
}
THROTTLED = {"SlowDown", "RequestTimeout", "RequestTimeoutException", "Throttling", "ThrottlingException"}
# What SSL says of a certificate that it does not trust: no other attempt makes it another one.
UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
# The one status of a server's fault that does not pass: it cannot do what was asked.
NEVER = 501
# What a listing says of each object.
NAMED = {"Key", "Size", "LastModified", "ETag"}
# A conditional write that met another one: the outcome is not known yet.
CONFLICT = "ConditionalRequestConflict"

T = TypeVar("T")

# How often this process has tried again, by S3's name of the operation.
retries: Counter[str] = Counter()


@functools.cache
def client() -> BaseClient:
    """The client of this process; credentials, region and endpoint come from the standard AWS chain alone.

    It asks once: all that is done again is done by _again.

    Raises:
        UsageError: The chain itself is broken, as by a profile that does not exist.
    """
    pace.keep_pace()
    config = Config(connect_timeout=10, read_timeout=pace.STALL, retries={"total_max_attempts": 1})
    try:
        return boto3.session.Session().client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        raise UsageError(f"S3: {one_line(error)}") from error


def _is_transient(error: BaseException) -> bool:
    """True for what may be gone at the next attempt: a server's fault, a lost connection, a broken body."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        passing = (status >= 500 and status != NEVER) or status == 429
        return passing or _code(error) in {*THROTTLED, *EXPIRED, CONFLICT}
    if isinstance(error, SSLError) and UNTRUSTED in str(error):
        return False
    lost = (ConnectionError, HTTPClientError, IncompleteReadError, FlexibleChecksumError)
    return isinstance(error, (*lost, CredentialRetrievalError, ResponseParserError))


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


class _Patience:
    """When to give up what fails, counted from its first failure, and what to do before it is tried again."""

    def __init__(self, operation: str) -> None:
        self._operation = operation
        self._since: float | None = None
        self._told = False

    def is_over(self, state: RetryCallState) -> bool:
        self._since = self._since or time.monotonic()
        return state.attempt_number >= ATTEMPTS and time.monotonic() - self._since >= PATIENCE

    def before_wait(self, state: RetryCallState) -> None:
        assert state.outcome is not None
        assert self._since is not None
        error = state.outcome.exception()
        assert error is not None
        retries[self._operation] += 1
        if isinstance(error, CredentialRetrievalError) or (isinstance(error, ClientError) and _code(error) in EXPIRED):
            # Another one asks the chain again.
            client.cache_clear()
        if not self._told and time.monotonic() - self._since >= NOTICE:
            self._told = True
            say(f"S3: {one_line(error)}; trying again for {PATIENCE} s", sys.stderr)


def _again(operation: str, work: Callable[[], T]) -> T:
    """The result of work that is done anew, after a random wait that grows, as long as its fault is transient.

    operation: S3's name of it.
    """
    patience = _Patience(operation)
    retrying = Retrying(
        stop=patience.is_over,
        wait=wait_random_exponential(max=LONGEST_WAIT),
        retry=retry_if_exception(_is_transient),
        before_sleep=patience.before_wait,
        reraise=True,
    )
    return retrying(work)


def _ask(operation: str, work: Callable[[], T]) -> T:
    """The same for work that gets an answer of S3's own, not an object: such answers are short."""
    with pace.at_most(LONGEST_ANSWER):
        return _again(operation, work)


@contextmanager
def _explained(operation: str, bucket: str, key: str) -> Iterator[None]:
    """What S3 and boto3 raise as FileNotFoundError, UsageError or RunError in one line."""
    place = f"s3://{bucket}/{key}".rstrip("/")
    cannot = f"cannot {operation} {place}:"
    try:
        yield
    except ClientError as error:
        code = _code(error)
        if code == "NoSuchKey":
            raise FileNotFoundError(f"{place} does not exist") from error
        if code in CAUSES:
            raise UsageError(f"{cannot} {CAUSES[code]} ({code})") from error
        said = one_line(RunError(error.response.get("Error", {}).get("Message") or "no reason is given"))
        raise RunError(f"{cannot} {said} ({code})") from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise UsageError(f"{cannot} no AWS credentials; set a profile (AWS_PROFILE) or keys") from error
    except ParamValidationError as error:
        # The first line says only that something was found.
        raise UsageError(f"{cannot} {str(error).splitlines()[-1]}") from error
    except (ConnectionError, HTTPClientError, ResponseParserError) as error:
        endpoint = client().meta.endpoint_url
        if UNTRUSTED in str(error):
            raise UsageError(
                f"{cannot} the certificate of {endpoint} is not trusted; AWS_CA_BUNDLE names the file of its authority"
            ) from error
        lost = not isinstance(error, ResponseParserError)
        what = "cannot be reached or stalls" if lost else "gives no answer of S3's"
        raise RunError(f"{cannot} {endpoint} {what}: {one_line(error)}") from error
    except BotoCoreError as error:
        raise RunError(f"{cannot} {one_line(error)}") from error


@dataclass(frozen=True)
class Listed:
    """An object, or a folder of objects, as a listing names it."""

    key: str
    size: int
    changed: datetime
    etag: str


def _pages(operation: str, bucket: str, prefix: str, **options: Any) -> Iterator[dict[str, Any]]:
    """A listing, page by page.

    Raises:
        RunError: It has too many.
    """
    with _explained(operation, bucket, prefix):
        for _ in range(PAGES):
            page = _ask("ListObjectsV2", functools.partial(_page, Bucket=bucket, Prefix=prefix, **options))
            yield page
            if not page["IsTruncated"]:
                return
            options["ContinuationToken"] = page["NextContinuationToken"]
    raise RunError(
        f"cannot {operation} s3://{bucket}/{prefix}: the listing does not end within {PAGES:,} pages; give a folder "
        "with fewer objects"
    )


def _page(**options: Any) -> dict[str, Any]:
    """One page; an answer that lacks what every page has, as of a web server, is as broken as half an answer."""
    page: dict[str, Any] = client().list_objects_v2(**options)
    whole = "IsTruncated" in page and ("NextContinuationToken" in page or not page["IsTruncated"])
    if not whole or not all(found.keys() >= NAMED and found["Size"] >= 0 for found in page.get("Contents", ())):
        raise ResponseParserError("no listing")
    return page


def list_objects(bucket: str, prefix: str) -> Iterator[Listed]:
    """All objects whose keys begin so; those that only stand for a folder are left out."""
    for page in _pages("list", bucket, prefix):
        yield from _entries(page)


def list_folder(bucket: str, prefix: str) -> tuple[list[Listed], list[str]]:
    """The objects right below a prefix that ends in a slash, and the prefixes of the folders there."""
    entries: list[Listed] = []
    folders: list[str] = []
    for page in _pages("list", bucket, prefix, Delimiter="/"):
        entries += _entries(page)
        folders += (found["Prefix"] for found in page.get("CommonPrefixes", ()))
    return entries, folders


def _entries(page: dict[str, Any]) -> Iterator[Listed]:
    return (_entry(found) for found in page.get("Contents", ()) if not found["Key"].endswith("/"))


def _entry(found: dict[str, Any]) -> Listed:
    return Listed(found["Key"], found["Size"], found["LastModified"], found["ETag"])


def first(bucket: str, prefix: str) -> Listed | None:
    """The first object, in the order of keys, whose key begins so. (A HEAD's errors would say no more than 403.)

    A page may be empty and not the last: objects that were deleted are passed over.
    """
    pages = _pages("list", bucket, prefix, MaxKeys=1)
    return next((_entry(found) for page in pages for found in page.get("Contents", ())), None)


def find(bucket: str, key: str) -> Listed | None:
    """The object of a key: it comes before all longer keys."""
    found = first(bucket, key)
    return found if found is not None and found.key == key else None


def download(bucket: str, key: str, file: IO[bytes], check: Callable[[int], object]) -> str:
    """Write an object to a file and return its SHA-256; after any transient fault again from its first byte.

    check: is told how many bytes will come, before they do, and may raise an error.

    Raises:
        FileNotFoundError: There is none.
        UsageError, RunError: It cannot be read, and the user can fix it or not.
    """

    def copy() -> str:
        file.seek(0)
        file.truncate()
        digest = hashlib.sha256()
        answer = client().get_object(Bucket=bucket, Key=key)
        if "ContentLength" not in answer:
            raise ResponseParserError("an object without its length")
        check(answer["ContentLength"])
        body = answer["Body"]
        with body:
            for chunk in body.iter_chunks(CHUNK):
                digest.update(chunk)
                file.write(chunk)
        return digest.hexdigest()

    with _explained("read", bucket, key):
        return _again("GetObject", copy)


class Ranges(io.RawIOBase):
    """An object opened for random access: each read is one request, and all are answered by one version of it."""

    def __init__(self, bucket: str, key: str) -> None:
        entry = find(bucket, key)
        if entry is None:
            raise FileNotFoundError(f"s3://{bucket}/{key} does not exist")
        self._bucket, self._entry, self._at = bucket, entry, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._entry.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._entry.size - self._at))
        if count:
            buffer[:count] = self._read(self._at, count)
            self._at += count
        return count

    def readall(self) -> bytes:
        return self.read(self._entry.size - self._at) or b""

    def _read(self, start: int, count: int) -> bytes:
        entry = self._entry

        def get() -> bytes:
            span = f"bytes={start}-{start + count - 1}"
            answer = client().get_object(Bucket=self._bucket, Key=entry.key, Range=span, IfMatch=entry.etag)
            if answer["ETag"] != entry.etag:
                raise changed
            if answer["ContentLength"] != count:
                raise IncompleteReadError(actual_bytes=answer["ContentLength"], expected_bytes=count)
            return bytes(answer["Body"].read())

        changed = RunError(f"s3://{self._bucket}/{entry.key} changed while it was read")
        with _explained("read", self._bucket, entry.key):
            try:
                return _again("GetObject", get)
            except ClientError as error:
                if _code(error) == "PreconditionFailed":
                    raise changed from error
                raise


def put(bucket: str, key: str, data: bytes) -> None:
    """Write an object, in place of an older one if there is one, in one request: whole or not at all."""
    with _explained("write", bucket, key):
        _ask("PutObject", lambda: client().put_object(Bucket=bucket, Key=key, Body=data))


def create(bucket: str, key: str, data: bytes) -> None:
    """Write a new object in one request, which the server refuses if there is one already.

    Raises:
        ExistsError: There is one.
    """
    attempts = 0

    def write() -> None:
        nonlocal attempts
        attempts += 1
        client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")

    with _explained("write", bucket, key):
        try:
            _ask("PutObject", write)
        except ClientError as error:
            if _code(error) != "PreconditionFailed":
                raise
            # An attempt whose answer was lost may have been the one that wrote it.
            if attempts == 1 or not _holds(bucket, key, data):
                raise ExistsError(f"s3://{bucket}/{key} exists already; nothing is overwritten") from error


def _holds(bucket: str, key: str, data: bytes) -> bool:
    """Whether an object has these bytes."""
    entry, found = find(bucket, key), io.BytesIO()
    if entry is None or entry.size != len(data):
        return False
    download(bucket, key, found, lambda _: None)
    return found.getvalue() == data


def upload(bucket: str, key: str, open_stream: Callable[[], BinaryIO]) -> None:
    """Write an object of any size from a stream, in parts that appear together or not at all."""

    def send() -> None:
        with open_stream() as stream:
            client().upload_fileobj(stream, bucket, key)

    with _explained("write", bucket, key):
        _ask("PutObject", send)


def delete_folder(bucket: str, prefix: str) -> None:
    """Remove all objects whose keys begin so."""
    for page in _pages("delete", bucket, prefix):
        if keys := [{"Key": found["Key"]} for found in page.get("Contents", ())]:
            with _explained("delete", bucket, prefix):
                delete = {"Objects": keys, "Quiet": True}
                _ask("DeleteObjects", functools.partial(client().delete_objects, Bucket=bucket, Delete=delete))
