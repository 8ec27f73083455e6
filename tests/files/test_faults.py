"""The proxy itself: signatures survive it, and each fault is what it says, as seen without the package."""

import http.client
import os
import xml.etree.ElementTree as ET
from urllib.parse import urlsplit

import boto3
import numpy as np
import pytest
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.faults import ALWAYS, STATUS, Fault, proxied
from tests.s3 import make_bucket

DATA = np.random.default_rng(0).bytes(300_000)


def make_client() -> BaseClient:
    """A client that asks once."""
    return boto3.session.Session().client("s3", config=Config(retries={"total_max_attempts": 1}))


@pytest.fixture(scope="module")
def name(s3_server: None) -> str:
    """A bucket that holds DATA as `folder/x`."""
    found = make_bucket("test-faults").removeprefix("s3://")
    make_client().put_object(Bucket=found, Key="folder/x", Body=DATA)
    return found


def ask(client: BaseClient, name: str) -> http.client.HTTPConnection:
    """A connection that has sent a signed GET of folder/x; late answers of a busy machine are waited for."""
    url = urlsplit(client.generate_presigned_url("get_object", {"Bucket": name, "Key": "folder/x"}))
    connection = http.client.HTTPConnection(url.netloc, timeout=30)
    connection.request("GET", f"{url.path}?{url.query}")
    return connection


def get(client: BaseClient, name: str) -> http.client.HTTPResponse:
    """The answer to a signed GET of folder/x, as the wire has it."""
    return ask(client, name).getresponse()


@pytest.mark.parametrize("key", ["plain", "a b+c%20d/é猫/=&?#'\"", "~tilde.(1)"])
def test_signed_requests_of_odd_keys_pass_as_they_are(name: str, key: str) -> None:
    with proxied() as proxy:
        client = make_client()
        client.put_object(Bucket=name, Key=key, Body=DATA, Metadata={"a": "b c"})
        answer = client.get_object(Bucket=name, Key=key)
        assert (answer["Body"].read(), answer["Metadata"]) == (DATA, {"a": "b c"})
        assert client.head_object(Bucket=name, Key=key)["ContentLength"] == len(DATA)
        assert client.get_object(Bucket=name, Key=key, Range="bytes=5-9")["Body"].read() == DATA[5:10]
        listed = client.list_objects_v2(Bucket=name, Prefix=key[:3])["Contents"]
        assert [entry["Key"] for entry in listed] == [key]
        with pytest.raises(ClientError, match="PreconditionFailed"):
            client.put_object(Bucket=name, Key=key, Body=b"", IfNoneMatch="*")
        client.delete_object(Bucket=name, Key=key)
    assert [method for method, _ in proxy.requests] == ["PUT", "GET", "HEAD", "GET", "GET", "PUT", "DELETE"]
    assert {path for method, path in proxy.requests if method == "PUT"} == {f"/{name}/{key}"}


def test_a_wrong_signature_is_still_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with proxied(), pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        make_client().list_objects_v2(Bucket=name)


@pytest.mark.parametrize("code", STATUS)
def test_errors_have_their_status_and_code(name: str, code: str) -> None:
    fault = Fault(code, key="folder/x")
    with proxied(fault) as proxy:
        client = make_client()
        answer = get(client, name)
        assert (answer.status, ET.fromstring(answer.read()).findtext("Code")) == (STATUS[code], code)
        assert get(client, name).read() == DATA
    assert proxy.struck == {fault: 1}


def test_only_the_requests_that_match_are_spoiled_and_only_so_often(name: str) -> None:
    faults = (Fault("SlowDown", key="folder/y", times=ALWAYS), Fault("SlowDown", method="PUT", times=ALWAYS))
    often = Fault("SlowDown", key="/x", times=2)
    with proxied(*faults, often) as proxy:
        client = make_client()
        assert [get(client, name).status for _ in range(4)] == [503, 503, 200, 200]
    assert proxy.struck == {often: 2}


def test_a_reset_in_place_of_an_answer(name: str) -> None:
    with proxied(Fault("reset")), pytest.raises(ConnectionResetError):
        get(make_client(), name)


@pytest.mark.parametrize(("kind", "done"), [("reset", False), ("answer lost", True)])
def test_a_lost_answer_is_to_a_request_that_was_done(name: str, kind: str, done: bool) -> None:
    with proxied(Fault(kind, "PUT")), pytest.raises(Exception, match=r"(?i)connection"):
        make_client().put_object(Bucket=name, Key="new", Body=b"new")
    keys = [entry["Key"] for entry in make_client().list_objects_v2(Bucket=name)["Contents"]]
    assert ("new" in keys) == done


def test_a_stall_in_place_of_an_answer(name: str) -> None:
    with proxied(Fault("stall")):
        connection = ask(make_client(), name)
        connection.sock.settimeout(1)
        with pytest.raises(TimeoutError):
            connection.getresponse()


@pytest.mark.parametrize("at", [0, 150_000, len(DATA) - 1])
def test_faults_in_the_body_come_after_so_many_bytes(name: str, at: int) -> None:
    kinds = ("truncated", "shortened", "flipped", "reset in body", "stall in body")
    with proxied(*(Fault(kind, at=at) for kind in kinds)) as proxy:
        client = make_client()
        answer = get(client, name)
        with pytest.raises(http.client.IncompleteRead) as cut:
            answer.read()
        assert (answer.headers["Content-Length"], cut.value.partial) == (str(len(DATA)), DATA[:at])
        answer = get(client, name)
        assert (answer.headers["Content-Length"], answer.read()) == (str(at), DATA[:at])
        flipped = get(client, name).read()
        assert [place for place in range(len(DATA)) if flipped[place] != DATA[place]] == [at]
        for error in (ConnectionResetError, TimeoutError):
            connection = ask(client, name)
            answer = connection.getresponse()
            assert answer.status == 200
            assert answer.read(at) == DATA[:at]
            connection.sock.settimeout(1)
            with pytest.raises(error):
                answer.read(1)
    assert sum(proxy.struck.values()) == len(kinds)


def test_the_environment_leads_to_the_proxy_and_back(name: str) -> None:
    before = dict(os.environ)
    with proxied():
        assert os.environ["AWS_ENDPOINT_URL"] != before["AWS_ENDPOINT_URL"]
    assert dict(os.environ) == before
