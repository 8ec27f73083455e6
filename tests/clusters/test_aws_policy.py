"""clusters/aws-policy.json: what our S3 code does, before a real server, is allowed there, and nothing more."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp.web import BaseRequest, StreamResponse
from botocore import xform_name
from pyarrow.fs import FileSystem
from ray.train._internal import storage as train_storage

from ldm_scale.files import ownership, s3
from ldm_scale.files.ownership import own
from ldm_scale.files.storage import Location
from tests.clusters.launchers import actions, allows, launcher, policy
from tests.faults import Proxy, proxied

# The IAM actions behind S3's operations, as AWS's service authorization reference has them.
NEEDS = {
    "ListObjectsV2": "s3:ListBucket",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObjects": "s3:DeleteObject",
}
# The same from a request's method and whether it names a key; a POST to a bucket deletes, one to a key is an upload's.
REQUESTS = {
    ("HEAD", False): "s3:ListBucket",
    ("GET", False): "s3:ListBucket",
    ("POST", False): "s3:DeleteObject",
    ("HEAD", True): "s3:GetObject",
    ("GET", True): "s3:GetObject",
    ("PUT", True): "s3:PutObject",
    ("POST", True): "s3:PutObject",
    ("DELETE", True): "s3:DeleteObject",
}
NODE = policy("aws-policy.json")
BUCKET = "arn:aws:s3:::my-bucket"


def test_a_node_may_do_what_our_s3_code_does_and_no_more(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ownership, "BEAT", 0.05)
    root = Location.of(f"{bucket}/ldm")
    calls: list[tuple[str, dict[str, Any]]] = []

    def note(params: dict[str, Any], model: Any, **_: Any) -> None:
        calls.append((model.name, params))

    s3.client.cache_clear()
    s3.client().meta.events.register("provide-client-params.s3", note)
    try:
        use_everything(root, tmp_path)
    finally:
        s3.client.cache_clear()
    made = {xform_name(name) for name, _ in calls}
    # Each call that the module has was made.
    written = set(re.findall(r"client\(\)\.(\w+)", Path(s3.__file__).read_text())) - {"meta", "upload_fileobj"}
    assert written <= made
    for name, params in calls:
        for resource, context in resources(name, params):
            assert allows(NODE, NEEDS[name], resource, **context), (name, resource, context)
    assert actions(NODE, "s3") == {NEEDS[name] for name, _ in calls}


def use_everything(root: Location, tmp_path: Path) -> None:
    """An audit's, a packing's and a training's kinds of reading and writing."""
    run, shards, target = root / "runs/first", root / "shards/coco", root / "targets/imagenet"
    assert run.is_empty()
    with own(run, print) as ownership:
        ownership.check()
        (run / "run.json").create(b"{}")
        (run / "samples/part-0.parquet").replace(b"rows")
    (shards / "members/000000.tar").create(b"x" * 1000)
    with (shards / "members/000000.tar").open() as stream:
        assert stream.read(10) == b"x" * 10
    with (shards / "members/000000.tar").on_disk() as (file, _):
        assert len(file.read()) == 1000
    assert len(shards.files(".tar", recursive=True)) == len(shards.folders()) == 1
    assert shards.versions()
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(bytes(20 << 20))
    filesystem, path = FileSystem.from_uri(f"file://{checkpoint}")
    target.copy_from(filesystem, path)
    with pytest.raises(OSError, match="disk"):
        (target / "broken")._write(Broken)
    partial = Location(f"{target}.partial")
    (partial / "training.json").create(b"{}")
    partial.delete_dir()
    assert partial.is_empty()


class Broken(io.RawIOBase):
    """A file whose disk fails after some parts of an upload."""

    def __init__(self) -> None:
        self.left = 3

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise OSError("the disk is gone")
        return bytes(size)


def resources(name: str, params: dict[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """What a call asks for: (resource, condition keys), with the bucket under its name in the policy."""
    if name == "ListObjectsV2":
        return [(BUCKET, {"s3_prefix": params["Prefix"]})]
    keys = [found["Key"] for found in params["Delete"]["Objects"]] if name == "DeleteObjects" else [params["Key"]]
    return [(f"{BUCKET}/{key}", {}) for key in keys]


def test_ray_train_keeps_its_checkpoints_within_the_policy(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/state.pt").write_bytes(bytes(20 << 20))
    name = bucket.removeprefix("s3://")
    requests: list[tuple[str, str, str | None]] = []
    answer = Proxy._answer

    async def note(proxy: Proxy, request: BaseRequest) -> StreamResponse:
        requests.append((request.method, request.path, request.query.get("prefix")))
        return await answer(proxy, request)

    monkeypatch.setattr(Proxy, "_answer", note)
    with proxied():
        # What Ray Train does with a storage path, by its own functions.
        context = train_storage.StorageContext(f"{bucket}/ldm/targets/x.partial", "train")
        filesystem, checkpoint = context.storage_filesystem, f"{context.experiment_fs_path}/checkpoint"
        train_storage._upload_to_fs_path(str(tmp_path / "checkpoint"), filesystem, checkpoint)
        assert train_storage._exists_at_fs_path(filesystem, f"{checkpoint}/state.pt")
        train_storage._download_from_fs_path(filesystem, checkpoint, str(tmp_path / "back"))
        train_storage._delete_fs_path(filesystem, checkpoint)
    asked = set()
    for method, path, prefix in requests:
        where, _, key = path.removeprefix("/").partition("/")
        if where != name:
            # Arrow also asks for a bucket that is nowhere, whatever the answer.
            assert (method, where) == ("HEAD", "$extremelyunlikelytoexist$")
            continue
        # The keys of a POST to the bucket are in its body; the marks of their folders are deleted singly.
        action, resource = REQUESTS[method, bool(key)], f"{BUCKET}/{key}".removesuffix("/" * (not key))
        if (method, key) != ("POST", ""):
            context_keys = {} if prefix is None else {"s3_prefix": prefix}
            assert allows(NODE, action, resource, **context_keys), (method, path, prefix)
        asked.add(action)
    assert asked == actions(NODE, "s3") - {"s3:AbortMultipartUpload"}


@pytest.mark.parametrize(
    ("action", "key"),
    [
        ("s3:GetObject", "other/secret"),
        ("s3:PutObject", "other/x"),
        ("s3:PutObject", "ldm/notes.txt"),
        ("s3:DeleteObject", "ldm/runs/first/run.json"),
        ("s3:DeleteObject", "ldm/targets/imagenet/model.safetensors"),
        ("s3:DeleteObject", "ldm/shards/coco/members/000000.tar"),
    ],
)
def test_a_node_may_not(action: str, key: str) -> None:
    assert not allows(NODE, action, f"{BUCKET}/{key}")
    assert not allows(NODE, action, f"arn:aws:s3:::other-bucket/{key}")


def test_a_node_may_neither_list_the_rest_of_the_bucket_nor_another() -> None:
    assert allows(NODE, "s3:ListBucket", BUCKET, s3_prefix="ldm/runs/")
    assert not allows(NODE, "s3:ListBucket", BUCKET, s3_prefix="")
    assert not allows(NODE, "s3:ListBucket", BUCKET, s3_prefix="ldmother/")
    assert not allows(NODE, "s3:ListBucket", "arn:aws:s3:::other-bucket", s3_prefix="ldm/runs/")


def test_the_policy_and_the_launcher_files_mean_one_bucket_and_root() -> None:
    for name in ("aws.yaml", "gcp.yaml"):
        assert f"--env=LDM_SCALE_ROOT=s3://{BUCKET.rpartition(':')[2]}/ldm" in launcher(name)["docker"]["run_options"]
