"""S3 itself: faults that pass are not noticed; others are one line that says where, what and why, and no secret."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from ldm_scale.cli import main
from ldm_scale.errors import ExistsError, RunError, UsageError
from ldm_scale.files import s3
from ldm_scale.files.storage import Location
from tests.faults import ALWAYS, Fault, proxied
from tests.jobs.cluster import free_port

DATA = np.random.default_rng(0).bytes(100_000)
BEFORE = ("reset", "stall", "SlowDown", "InternalError")
IN_BODY = ("reset in body", "stall in body", "truncated")
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
    faults = [Fault(kind, key="/x", at=50_000) for kind in (*BEFORE, *IN_BODY)]
    with proxied(*faults) as proxy:
        assert READS[read](location) == DATA
    assert proxy.struck == dict.fromkeys(faults, 1)


def test_each_retry_is_counted_by_its_operation(bucket: str) -> None:
    """Those of the client, which answers to a status, and ours, which begin anew where a body breaks off."""
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


@pytest.mark.parametrize("listing", LISTINGS)
def test_listings_outlast_faults(bucket: str, listing: str) -> None:
    folder = Location.of(bucket) / "folder"
    for name in ("a", "b", "c/d"):
        (folder / name).create(name.encode())
    expected = LISTINGS[listing](folder)
    faults = [Fault(kind, key=bucket.removeprefix("s3://"), at=100) for kind in (*BEFORE, *IN_BODY)]
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
    "another region": Trouble("the bucket is in another region; set AWS_REGION", code="PermanentRedirect"),
    "another region's signature": Trouble("in another region; set AWS_REGION", code="AuthorizationHeaderMalformed"),
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
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3, "LONGEST_WAIT", 0.01)
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
    done = subprocess.run(
        [sys.executable, "-c", command, "validate", "--shards", "s3://nope/x"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "ldm-scale: error: cannot list s3://nope/x/manifest.json: there is no such bucket (NoSuchBucket)\n"
    )
