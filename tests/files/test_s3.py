"""S3 itself: faults that pass are not noticed; others are one line that says where, what and why, and no secret."""

import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest
from botocore.exceptions import SSLError
from botocore.response import StreamingBody

from ldm_scale.cli import main
from ldm_scale.errors import ExistsError, RunError, UsageError
from ldm_scale.files import s3
from ldm_scale.files.storage import Location
from tests.faults import ALWAYS, Fault, proxied
from tests.jobs.cluster import free_port

DATA = np.random.default_rng(0).bytes(100_000)
BEFORE = ("reset", "stall", "SlowDown", "InternalError", "TooManyRequests", "ExpiredToken")
IN_BODY = ("reset in body", "stall in body", "trickle", "truncated")
SECRET, TOKEN = "planted/secret+key", "planted//token=="


@pytest.fixture(autouse=True)
def new_client(s3_server: None) -> Iterator[None]:
    """Each test's client finds that test's environment."""
    s3.client.cache_clear()
    yield
    s3.client.cache_clear()


def download(location: Location) -> bytes:
    with location.on_disk() as (file, _):
        return file.read()


def at_random(location: Location) -> bytes:
    with location.open() as file:
        file.seek(-100, 2)
        end = file.read()
        file.seek(0)
        return file.read(len(DATA) - 100) + end


READS: dict[str, Callable[[Location], bytes]] = {
    "download": download,
    "stream": Location.read_bytes,
    "at random": at_random,
}
# Answers to a listing that are none.
PAGES = ("web page", "empty")
LISTINGS: dict[str, Callable[[Location], object]] = {
    "files": lambda x: x.files(),
    "tree": lambda x: x.files(recursive=True),
    "folders": lambda x: x.folders(),
    "versions": lambda x: x.versions(),
    "is_file": lambda x: (x / "a").is_file(),
    "size": lambda x: (x / "a").size(),
    "is_dir": lambda x: x.is_dir(),
}


@pytest.mark.parametrize("read", READS)
def test_reads_outlast_faults(bucket: str, read: str) -> None:
    location = Location.of(bucket) / "x"
    location.create(DATA)
    for kinds in (BEFORE, IN_BODY):
        faults = [Fault(kind, key="/x", at=50_000) for kind in kinds]
        with proxied(*faults) as proxy:
            assert READS[read](location) == DATA
        assert proxy.struck == dict.fromkeys(faults, 1)


def test_each_retry_is_counted_by_its_operation(bucket: str) -> None:
    before = s3.retries.copy()
    location = Location.of(bucket) / "x"
    faults = [
        Fault("SlowDown", method="PUT", key="/x", times=2),
        Fault("InternalError", key="/x"),
        Fault("truncated", key="/x", at=50_000),
        Fault("reset", key=bucket.removeprefix("s3://")),
    ]
    with proxied(*faults) as proxy:
        location.create(DATA)
        assert location.read_bytes() == DATA
        assert location.is_file()
    assert proxy.struck == {fault: fault.times for fault in faults}
    assert s3.retries - before == {"PutObject": 2, "GetObject": 2, "ListObjectsV2": 1}


def listed_folder(bucket: str) -> Location:
    """A folder of two files and a folder."""
    folder = Location.of(bucket) / "folder"
    for name in ("a", "b", "c/d"):
        (folder / name).create(name.encode())
    return folder


@pytest.mark.parametrize("listing", LISTINGS)
def test_listings_outlast_faults(bucket: str, listing: str) -> None:
    folder = listed_folder(bucket)
    expected = LISTINGS[listing](folder)
    for kinds in (BEFORE, (*IN_BODY, *PAGES)):
        faults = [Fault(kind, key=bucket.removeprefix("s3://"), at=100) for kind in kinds]
        with proxied(*faults) as proxy:
            assert LISTINGS[listing](folder) == expected
        assert proxy.struck == dict.fromkeys(faults, 1)


def test_a_listing_of_several_pages_has_every_object_once(bucket: str) -> None:
    names = [f"{number}" for number in range(5)]
    for name in names:
        (Location.of(bucket) / "folder" / name).create(b"")
    with proxied(Fault("truncated", key=bucket.removeprefix("s3://"), at=300, times=2)) as proxy:
        pages = list(s3._pages("list", bucket.removeprefix("s3://"), "folder/", MaxKeys=2))
    assert [[found["Key"][-1] for found in page["Contents"]] for page in pages] == [names[:2], names[2:4], names[4:]]
    assert len(proxy.requests) == 5


@pytest.mark.parametrize("method", ["create", "replace"])
def test_writes_outlast_faults(bucket: str, method: str) -> None:
    faults = [Fault(kind, "PUT", key="/x") for kind in (*BEFORE, "answer lost")]
    location = Location.of(bucket) / "x"
    with proxied(*faults) as proxy:
        getattr(location, method)(DATA)
    assert proxy.struck == dict.fromkeys(faults, 1)
    assert location.read_bytes() == DATA


@dataclass
class Clock:
    """A time that only waiting moves on."""

    now: float = 1000.0
    waits: int = 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.waits += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(s3, "time", clock)
    monkeypatch.setattr("tenacity.nap.time", clock)
    return clock


def upload(location: Location) -> None:
    s3.upload(*location._object, lambda: io.BytesIO(DATA))


PATHS: dict[str, tuple[str, Callable[[Location], object]]] = {
    "download": ("GET", download),
    "at random": ("GET", at_random),
    "listing": ("GET", lambda x: x.files()),
    "create": ("PUT", lambda x: (x / "new").create(b"")),
    "replace": ("PUT", lambda x: x.replace(b"")),
    "upload": ("PUT", upload),
    "delete": ("POST", lambda x: Location(x.uri.rsplit("/", 1)[0]).delete_dir()),
}


@pytest.mark.parametrize(
    ("path", "kind"),
    [*((path, "TooManyRequests") for path in PATHS), ("listing", "ExpiredToken"), ("listing", "reset")],
)
def test_patience_is_the_same_on_every_path(
    bucket: str, clock: Clock, path: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """At least two minutes and eight attempts, at most one more wait; after ten seconds the user is told."""
    location = Location.of(bucket) / "folder/x"
    location.create(DATA)
    method, work = PATHS[path]
    fault = Fault(kind, method, times=ALWAYS)
    with proxied(fault, patient=True) as proxy, pytest.raises((RunError, UsageError), match=bucket):
        work(location)
    assert 120 <= clock.now - 1000 <= 150
    assert clock.waits >= 7
    assert sum(proxy.struck.values()) == clock.waits + 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].endswith("; trying again for 120 s")


def test_what_proves_a_lost_write_is_as_patient(bucket: str) -> None:
    location = Location.of(bucket) / "x"
    faults = [Fault("answer lost", "PUT"), Fault("SlowDown", times=7), Fault("TooManyRequests", key="/x", times=7)]
    with proxied(*faults) as proxy:
        location.create(DATA)
    assert proxy.struck == {fault: fault.times for fault in faults}


def test_other_credentials_are_asked_for_when_they_have_expired(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file of credentials that is renewed."""
    location = Location.of(bucket) / "x"
    location.create(DATA)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with proxied(Fault("ExpiredToken", key="/x")) as proxy:
        s3.client()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
        assert location.read_bytes() == DATA
    assert sum(proxy.struck.values()) == 1


def test_a_refused_connection_is_tried_again(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As while a server starts anew."""
    location = Location.of(bucket) / "x"
    location.create(DATA)
    there = os.environ["AWS_ENDPOINT_URL"]
    away = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{away.getsockname()[1]}")
    away.close()
    s3.client.cache_clear()
    refused: list[object] = []

    def come_back(seconds: float) -> None:
        refused.append(seconds)
        if len(refused) == 3:
            monkeypatch.setenv("AWS_ENDPOINT_URL", there)
            s3.client.cache_clear()

    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=come_back))
    assert location.read_bytes() == DATA
    assert len(refused) == 3


@pytest.mark.parametrize("listing", LISTINGS)
def test_an_empty_page_is_not_the_end_of_a_listing(bucket: str, listing: str) -> None:
    """s3ql #170: S3 passes over objects that were deleted, a page at a time."""
    folder = listed_folder(bucket)
    expected = LISTINGS[listing](folder)
    with proxied(Fault("endless", key=bucket.removeprefix("s3://"), times=3)) as proxy:
        assert LISTINGS[listing](folder) == expected
    assert sum(proxy.struck.values()) == 3


@pytest.mark.parametrize(
    ("method", "kind", "work", "cause"),
    [
        ("GET", "InvalidObjectState", download, "it is archived"),
        ("GET", "InvalidObjectState", at_random, "it is archived"),
        ("PUT", "MissingContentLength", lambda x: x.replace(DATA), "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"),
        ("PUT", "NotImplemented", lambda x: x.create(DATA), "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"),
    ],
)
def test_what_a_server_never_does_is_asked_for_once(
    bucket: str, method: str, kind: str, work: Callable[[Location], object], cause: str
) -> None:
    """boto3 #4398 and stor #38: other servers than Amazon's, and objects in Glacier."""
    location = Location.of(bucket) / "x"
    if method == "GET":
        location.create(DATA)
    with proxied(Fault(kind, method, "/x", times=ALWAYS)) as proxy, pytest.raises(UsageError, match=cause) as caught:
        work(location)
    assert (sum(proxy.struck.values()), "\n" in str(caught.value)) == (1, False)


@pytest.mark.parametrize("name", ["a b+c", "0:0+0", "x&y<z>", "日本 é", "100% %20", "q'uo\"te", "a\tb", "#~^`;,=?"])
def test_a_key_of_any_characters_is_listed_as_it_was_written(bucket: str, name: str) -> None:
    """seaweedfs #5119 and floci #1589: of each character, in the names of files and of folders."""
    folder = Location.of(bucket) / "folder"
    (folder / name / name).create(DATA[:9])
    (found,) = folder.files(recursive=True)
    assert (str(found), found.read_bytes()) == (f"{folder}/{name}/{name}", DATA[:9])
    assert (found.is_file(), [str(below) for below in folder.folders()]) == (True, [f"{folder}/{name}"])


@pytest.mark.parametrize(
    ("cause", "error", "said"),
    [("CERTIFICATE_VERIFY_FAILED", UsageError, "AWS_CA_BUNDLE"), ("EOF", RunError, "cannot be reached")],
)
def test_a_certificate_that_is_not_trusted_is_named_at_once(
    cause: str, error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """boto3 #2357: as of a server's own certificate; a handshake that fails otherwise may pass."""
    asked: list[str] = []

    def refuse(**_: object) -> None:
        asked.append(cause)
        raise SSLError(endpoint_url="https://here", error=f"[SSL: {cause}] (_ssl.c:1006)")

    client = SimpleNamespace(list_objects_v2=refuse, meta=SimpleNamespace(endpoint_url="https://here"))
    monkeypatch.setattr(s3, "client", lambda: client)
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(s3, "PATIENCE", 0)
    with pytest.raises(error, match=said) as caught:
        Location.of("s3://bucket/d").files()
    assert len(asked) == (1 if error is UsageError else s3.ATTEMPTS)
    assert "\n" not in str(caught.value)


def test_folders_without_a_name_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """s3fs #770: Amazon's keys may have slashes one after the other; the server of the tests makes one of them."""
    keys = ["d//x.png", "d//sub//y.png", "d/./z.png", "d/z.png"]
    now = datetime.now(UTC)
    monkeypatch.setattr(
        s3,
        "client",
        lambda: SimpleNamespace(
            list_objects_v2=lambda **_: {
                "IsTruncated": False,
                "Contents": [{"Key": key, "Size": len(key), "LastModified": now, "ETag": key} for key in keys],
            },
            get_object=lambda Key, **_: {
                "ContentLength": len(Key),
                "Body": StreamingBody(io.BytesIO(Key.encode()), len(Key)),
            },
        ),
    )
    found = Location.of("s3://bucket/d").files(recursive=True)
    assert sorted(file.read_bytes().decode() for file in found) == sorted(keys)


def test_a_listing_that_never_ends_is_given_up(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PAGES", 7)
    with proxied(Fault("endless", times=ALWAYS)) as proxy, pytest.raises(RunError, match="does not end within 7 pages"):
        Location.of(bucket).files()
    assert len(proxy.requests) == 7


@pytest.mark.parametrize("kind", PAGES)
def test_an_answer_that_is_no_listing_is_one_line(bucket: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "ATTEMPTS", 2)
    with proxied(Fault(kind, times=ALWAYS)), pytest.raises(RunError, match=f"cannot list {bucket}") as caught:
        Location.of(bucket).files()
    assert "gives no answer of S3's" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("work", [*READS.values(), *LISTINGS.values()])
def test_a_byte_now_and_then_is_a_stall(
    bucket: str, work: Callable[[Location], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    location = Location.of(bucket) / "x"
    location.create(DATA)
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    start = time.monotonic()
    with proxied(Fault("trickle", times=ALWAYS)), pytest.raises(RunError, match="cannot be reached or stalls"):
        work(location)
    # Else it would take an hour and more.
    assert time.monotonic() - start < 60


def test_an_answer_that_is_far_too_long_is_cut_off(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Location.of(bucket) / "folder"
    for number in range(20):
        (folder / f"{number}").create(b"")
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    monkeypatch.setattr(s3, "PATIENCE", 0)
    monkeypatch.setattr(s3, "LONGEST_ANSWER", 3000)
    with pytest.raises(RunError, match="more bytes than any answer"):
        folder.files()
    location = Location.of(bucket) / "x"
    location.create(DATA)
    # An object may be as long as it is.
    assert location.read_bytes() == DATA


def test_an_object_that_changes_while_it_is_read_is_named(bucket: str) -> None:
    """By a server that does as it was asked, and by one that does not."""
    location = Location.of(bucket) / "x"
    location.create(DATA)
    with location.open() as file:
        assert file.read(100) == DATA[:100]
        location.replace(DATA[::-1])
        with pytest.raises(RunError, match=f"{location} changed while it was read"):
            file.read(100)
    with proxied(Fault("changed", key="/x")), pytest.raises(RunError, match=f"{location} changed while it was read"):
        at_random(location)


def test_a_fault_is_no_way_to_overwrite(bucket: str) -> None:
    location = Location.of(bucket) / "x"
    location.create(b"first")
    for kind in (*BEFORE, "answer lost"):
        with proxied(Fault(kind, "PUT")) as proxy, pytest.raises(ExistsError, match="x exists already"):
            location.create(b"second")
        assert sum(proxy.struck.values()) == 1
    assert location.read_bytes() == b"first"


def test_a_folder_is_removed_in_spite_of_faults(bucket: str) -> None:
    folder = Location.of(bucket) / "folder"
    for name in ("a", "b/c"):
        (folder / name).create(b"")
    name = bucket.removeprefix("s3://")
    faults = [Fault("truncated", key=name, at=100), Fault("reset", "POST", name), Fault("answer lost", "POST", name)]
    with proxied(*faults) as proxy:
        folder.delete_dir()
    assert proxy.struck == dict.fromkeys(faults, 1)
    assert folder.is_empty()


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a way to S3, and what the user is told."""

    cause: str
    status: int = 2
    environment: dict[str, str | None] = field(default_factory=dict)
    code: str | None = None
    bucket: str | None = None


NOBODY: dict[str, str | None] = {
    **dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE")),
    **dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), "/nowhere"),
}
# Those with a code are the proxy's answer; the server itself finds out about the others.
TROUBLES = {
    "no bucket": Trouble("there is no such bucket", code="NoSuchBucket"),
    "no bucket's name": Trouble('Invalid bucket name "a b"', bucket="s3://a b"),
    "no rights": Trouble(
        "access denied: these credentials may not do this", environment={"AWS_ACCESS_KEY_ID": "stranger"}
    ),
    "unknown key": Trouble("the access key is not known there", environment={"AWS_ACCESS_KEY_ID": "nobody"}),
    "wrong secret": Trouble(
        "the secret key is not that of the access key", environment={"AWS_SECRET_ACCESS_KEY": SECRET}
    ),
    "expired token": Trouble("the session token has expired; log in again", code="ExpiredToken"),
    "another region": Trouble("the bucket is in another region; set AWS_DEFAULT_REGION", code="PermanentRedirect"),
    "another region's signature": Trouble(
        "in another region; set AWS_DEFAULT_REGION", code="AuthorizationHeaderMalformed"
    ),
    "clock": Trouble("this machine's clock is off; set it", code="RequestTimeTooSkewed"),
    "closed port": Trouble(
        "cannot be reached or stalls", 1, environment={"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
    ),
    "no such host": Trouble(
        "http://host.invalid cannot be reached or stalls", 1, environment={"AWS_ENDPOINT_URL": "http://host.invalid"}
    ),
    "no credentials": Trouble("no AWS credentials; set a profile", environment=NOBODY),
    "unending 503": Trouble("SlowDown", 1, code="SlowDown"),
}
OPERATIONS: list[tuple[str, Callable[[Location], object]]] = [
    ("read", download),
    ("read", Location.read_bytes),
    ("list", Location.open),
    ("list", Location.is_file),
    ("list", lambda x: x.files()),
    ("write", lambda x: x.create(b"")),
    ("write", lambda x: x.replace(b"")),
]


def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never ends is tried twice."""
    monkeypatch.setattr(s3, "LONGEST_WAIT", 0.01)
    monkeypatch.setattr(s3, "PATIENCE", 0)
    monkeypatch.setattr(s3, "ATTEMPTS", 2)


@pytest.mark.parametrize("name", TROUBLES)
def test_an_error_is_one_line_with_its_cause_and_no_secret(
    bucket: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trouble = TROUBLES[name]
    brief(monkeypatch)
    # Never before the shards were found.
    monkeypatch.setattr("ldm_scale.engine.validate.session", None)
    faults = [Fault(trouble.code, method, times=ALWAYS) for method in ("GET", "PUT", "HEAD") if trouble.code]
    planted = {"AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN} if trouble.code else {}
    with proxied(*faults), pytest.MonkeyPatch.context() as patch:
        for variable, value in {**planted, **trouble.environment}.items():
            patch.delenv(variable, raising=False) if value is None else patch.setenv(variable, value)
        location = Location.of(trouble.bucket or bucket) / "some/key"
        for operation, work in OPERATIONS:
            with pytest.raises((UsageError, RunError), match=trouble.cause) as caught:
                work(location)
            said = str(caught.value)
            assert said.startswith(f"cannot {operation} {location}")
            assert ("\n" in said, SECRET in said, TOKEN in said) == (False, False, False)
            assert caught.value.exit_status == trouble.status
        capsys.readouterr()
        assert main(["validate", "--shards", str(location)]) == trouble.status
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith(f"ldm-scale: error: cannot list {location}")
        assert (printed.err.count("\n"), SECRET in printed.err, TOKEN in printed.err) == (1, False, False)


def test_a_key_that_may_only_read_reads_and_is_told_that_it_may_not_write(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = Location.of(bucket) / "x"
    location.create(DATA)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    s3.client.cache_clear()
    assert (location.read_bytes(), Location.of(bucket).files()) == (DATA, [location])
    for write in (location.replace, (Location.of(bucket) / "y").create):
        with pytest.raises(UsageError, match=rf"^cannot write {bucket}/[xy]: access denied"):
            write(b"")
    assert location.read_bytes() == DATA


def test_a_clock_that_is_off_is_named_by_a_real_server(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    then = datetime.now(UTC) - timedelta(hours=2)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: then.replace(tzinfo=None))
    with pytest.raises(UsageError, match=rf"^cannot list {bucket}: this machine's clock is off; set it \("):
        Location.of(bucket).files()


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("AWS_PROFILE", "mine", r"profile \(mine\) could not be found"),
        ("AWS_ENDPOINT_URL", "nonsense", "Invalid endpoint: nonsense"),
        ("AWS_SECRET_ACCESS_KEY", None, "Partial credentials found in env, missing: AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_a_chain_that_is_broken_in_itself_is_named(
    variable: str, value: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False) if value is None else monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=rf"^S3: .*{told}"):
        Location.of("s3://bucket").files()


def test_the_command_prints_that_line_alone(bucket: str) -> None:
    command = "import sys; from ldm_scale.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", command, "status", "s3://nope/x"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ldm-scale: error: cannot list s3://nope/x/run.json: there is no such bucket (NoSuchBucket)\n"
