"""A real S3 server on this machine: signatures, multipart uploads and ranges as on the cloud."""

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import JSONFileLoader

from tests.jobs.cluster import free_port

WEED = Path(sys.executable).parent / "weed"
KEYS = {"accessKey": "tester", "secretKey": "not-a-secret"}
# Names, which are also their access keys, and what each may do.
RIGHTS = {"tester": ["Admin"], "reader": ["Read", "List"], "stranger": ["Read:another-bucket"]}
IDENTITIES = {
    "identities": [
        {"name": name, "credentials": [KEYS | {"accessKey": name}], "actions": actions}
        for name, actions in RIGHTS.items()
    ]
}


_load = JSONFileLoader.load_file


@functools.cache
def _load_once(path: str) -> Any:
    """A file of botocore's own, which it else reads anew for each session: most of what a client takes."""
    return _load(JSONFileLoader(), path)


def _environment(port: int) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": KEYS["accessKey"],
        "AWS_SECRET_ACCESS_KEY": KEYS["secretKey"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def make_bucket(name: str) -> str:
    """A new bucket; its address."""
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


def _wait(server: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(120):
        try:
            boto3.client("s3").list_buckets()
            return
        except (BotoCoreError, ClientError):
            if server.poll() is not None:
                break
            time.sleep(0.5)
    raise TimeoutError(f"the S3 server does not answer: {log.read_text()[-1000:]}")


@contextmanager
def server() -> Iterator[None]:
    """The server for the length of a block, and the AWS variables that lead boto3, pyarrow and Ray's workers to it."""
    folder = tempfile.TemporaryDirectory(prefix="s3-", ignore_cleanup_errors=True)
    root = Path(folder.name)
    (root / "keys.json").write_text(json.dumps(IDENTITIES))
    ports = {name: free_port() for name in ("master.port", "volume.port", "filer.port", "s3.port")}
    ports |= {f"{name}.grpc": free_port() for name in ports}
    ports |= {"s3.port.iceberg": 0, "s3.port.lance": 0}
    flags = [f"-{name}={port}" for name, port in ports.items()]
    before = dict(os.environ)
    os.environ.update(_environment(ports["s3.port"]))
    log = root / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [
                WEED, "server", f"-dir={root}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false",
                "-master.volumeSizeLimitMB=64", "-volume.max=0", "-filer=true", "-s3", f"-s3.config={root}/keys.json",
                *flags,
            ],
            stdout=stream, stderr=stream,
        )  # fmt: skip
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(JSONFileLoader, "load_file", lambda self, path: _load_once(path))
            _wait(process, log)
            yield
    finally:
        process.kill()
        process.wait()
        os.environ.clear()
        os.environ.update(before)
        folder.cleanup()
