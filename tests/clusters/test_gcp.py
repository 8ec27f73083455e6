"""clusters/gcp.yaml: Ray's own Google code before a Compute Engine of a few lines, which checks what it is asked."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import httplib2
import pytest
import yaml
from googleapiclient.discovery_cache import get_static_doc
from moto import mock_aws
from ray.autoscaler._private.providers import _get_node_provider_cls
from ray.autoscaler.sdk import get_docker_host_mount_location

from tests.clusters.launchers import CLUSTERS, environment, launcher, policy

COMPUTE = json.loads(get_static_doc("compute", "v1"))
# Google's permissions behind each of its methods, as its reference has them; those of a new machine's parts as well.
PERMISSIONS = {
    "instances.insert": {
        "compute.instances.create",
        "compute.instances.setLabels",
        "compute.instances.setServiceAccount",
        "compute.instances.setTags",
        "compute.disks.create",
        "compute.subnetworks.use",
        "compute.subnetworks.useExternalIp",
    },
    "instances.list": {"compute.instances.list"},
    "instances.get": {"compute.instances.get"},
    "instances.setLabels": {"compute.instances.setLabels"},
    "instances.delete": {"compute.instances.delete"},
    "zoneOperations.get": {"compute.zoneOperations.get"},
}


def check(value: Any, schema: dict[str, Any], where: str) -> None:
    """Fail where a value is not what Google's own description of its interface says."""
    schema = COMPUTE["schemas"][schema["$ref"]] if "$ref" in schema else schema
    kind = {"object": dict, "array": list, "boolean": bool, "integer": int, "string": (str, int)}[schema["type"]]
    assert isinstance(value, kind), where
    assert value in schema.get("enum", [value]), where
    if schema["type"] == "array":
        for number, item in enumerate(value):
            check(item, schema["items"], f"{where}[{number}]")
    elif schema["type"] == "object":
        for key, item in value.items():
            known = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
            assert known, f"{where}: {key} is unknown"
            check(item, known, f"{where}.{key}")


class Google:
    """Projects, accounts and machines, over HTTP as Google's client asks for them."""

    def __init__(self) -> None:
        self.machines: dict[str, dict[str, Any]] = {}
        self.methods: set[str] = set()
        self.is_refused: Callable[[dict[str, Any]], bool] = lambda machine: False
        self.is_listing = True
        self.code = "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"

    def request(self, uri: str, method: str = "GET", body: Any = None, **_: Any) -> Any:
        path = uri.partition("?")[0].partition("googleapis.com/")[2]
        answer = self._answer(method, path, json.loads(body) if body else {})
        return httplib2.Response({"status": 200}), json.dumps(answer).encode()

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        project = "compute/v1/projects/my-project"
        zone = f"{project}/zones/us-central1-a"
        match method, path.removeprefix(zone).split("/"):
            case "POST", ["", "instances"]:
                self.methods.add("instances.insert")
                check(body, {"$ref": "Instance"}, body["name"])
                if self.is_refused(body):
                    return {"name": "refused"}
                self.machines[body["name"]] = body | {"status": "RUNNING", "labelFingerprint": "1"}
                return {"name": "done"}
            case "GET", ["", "operations", name]:
                self.methods.add("zoneOperations.get")
                error = {"error": {"errors": [{"code": self.code, "message": "none left"}]}}
                return {"status": "DONE", "name": name} | (error if name == "refused" else {})
            case "GET", ["", "instances"]:
                self.methods.add("instances.list")
                return {"items": list(self.machines.values()) if self.is_listing else []}
            case "GET", ["", "instances", name]:
                self.methods.add("instances.get")
                return self.machines[name]
            case "POST", ["", "instances", name, "setLabels"]:
                self.methods.add("instances.setLabels")
                self.machines[name]["labels"] = body["labels"]
                return {"name": "done"}
            case "DELETE", ["", "instances", name]:
                self.methods.add("instances.delete")
                del self.machines[name]
                return {"name": "done"}
        # What `ray up` asks on the user's machine: nothing about accounts and who may do what.
        return {
            "v1/projects/my-project": {"projectId": "my-project", "lifecycleState": "ACTIVE"},
            project: {"name": "my-project", "commonInstanceMetadata": {}},
            f"{project}/setCommonInstanceMetadata": {"name": "done"},
            f"{project}/global/operations/done": {"status": "DONE"},
        }[path]


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Google:
    monkeypatch.setenv("HOME", str(tmp_path))
    google = Google()
    monkeypatch.setattr(httplib2.Http, "request", lambda _, *args, **kwargs: google.request(*args, **kwargs))
    return google


@pytest.fixture
def cluster(google: Google) -> tuple[dict[str, Any], Any]:
    """The launcher file as `ray up` has worked it out, and the head's provider."""
    config = launcher("gcp.yaml")
    provider = _get_node_provider_cls(config["provider"])
    # Google's client wants to see some credentials before it asks for anything.
    config["provider"]["gcp_credentials"] = {"type": "credentials_token", "credentials": "none"}
    config = provider.bootstrap_config(config)
    return config, provider(config["provider"], config["cluster_name"])


def launch(cluster: tuple[dict[str, Any], Any], kind: str, count: int = 1) -> list[str]:
    """The names of new nodes of a type."""
    config, provider = cluster
    tags = {
        "ray-node-name": f"ray-ldm-scale-{kind}",
        "ray-node-type": "head" if kind == "head" else "worker",
        "ray-user-node-type": kind,
    }
    return list(provider.create_node(config["available_node_types"][kind]["node_config"], tags, count))


def is_spot(machine: dict[str, Any]) -> bool:
    return machine.get("scheduling", {}).get("provisioningModel") == "SPOT"


def test_workers_are_spot_and_the_head_is_not(google: Google, cluster: Any) -> None:
    (head,), workers = launch(cluster, "head"), launch(cluster, "gpu", 2)
    assert not is_spot(google.machines[head])
    assert [is_spot(google.machines[name]) for name in workers] == [True, True]
    assert google.machines[head]["machineType"].endswith("/n2-standard-8")
    assert {google.machines[name]["machineType"].rpartition("/")[2] for name in workers} == {"g2-standard-8"}


def test_what_a_node_gets(google: Google, cluster: Any) -> None:
    for kind, account, gigabytes in (("head", "ldm-scale-head", 160), ("gpu", "ldm-scale-worker", 300)):
        (name,) = launch(cluster, kind)
        machine = google.machines[name]
        assert [found["email"].partition("@")[0] for found in machine["serviceAccounts"]] == [account]
        assert machine["labels"]["ray-cluster-name"] == "ldm-scale"
        # The firewall's rules are for nodes that have this.
        assert machine["tags"] == {"items": ["ldm-scale"]}
        (interface,) = machine["networkInterfaces"]
        assert interface["subnetwork"].endswith("/regions/us-central1/subnetworks/ldm-scale")
        (disk,) = machine["disks"]
        assert (disk["boot"], disk["autoDelete"]) == (True, True)
        assert disk["initializeParams"]["diskSizeGb"] == gigabytes
        # One image by its name: a family moves.
        assert "/family/" not in disk["initializeParams"]["sourceImage"]


def test_where_spot_has_none_left_workers_are_bought_on_demand(google: Google, cluster: Any) -> None:
    google.is_refused = lambda machine: is_spot(machine) and len(google.machines) >= 1
    names = launch(cluster, "gpu", 3)
    assert [is_spot(google.machines[name]) for name in names] == [True, False, False]
    assert len(google.machines) == 3


def test_a_fault_of_the_request_is_no_lack_and_a_lack_of_all_is_told(google: Google, cluster: Any) -> None:
    google.is_refused, google.code = is_spot, "PERMISSIONS_ERROR"
    with pytest.raises(Exception, match="PERMISSIONS_ERROR"):
        launch(cluster, "gpu")
    google.is_refused, google.code = lambda machine: True, "QUOTA_EXCEEDED"
    for kind in ("gpu", "head"):
        with pytest.raises(Exception, match="QUOTA_EXCEEDED"):
            launch(cluster, kind)
    assert google.machines == {}


def test_the_heads_role_is_what_ray_does_with_workers(google: Google, cluster: Any) -> None:
    (name,) = launch(cluster, "gpu")
    _, provider = cluster
    assert provider.non_terminated_nodes({}) == [name]
    provider.set_node_tags(name, {"ray-node-status": "up-to-date"})
    # A node that is not in the list is looked at by name.
    google.is_listing = False
    provider.cached_nodes.clear()
    assert provider.is_running(name)
    provider.terminate_nodes([name])
    role = yaml.safe_load((CLUSTERS / "gcp-head-role.yaml").read_text())
    assert set(role["includedPermissions"]) == set().union(*(PERMISSIONS[method] for method in google.methods))


@mock_aws(config={"core": {"mock_credentials": False}})
def test_a_node_trades_googles_word_for_a_role_on_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    variables = {name: value for name, value in environment(launcher("gcp.yaml")).items() if name.startswith("AWS_")}
    (tmp_path / "google-token").write_text("signed by Google")
    assert variables["AWS_WEB_IDENTITY_TOKEN_FILE"] == "/opt/cache/google-token"
    variables["AWS_WEB_IDENTITY_TOKEN_FILE"] = str(tmp_path / "google-token")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    credentials = boto3.session.Session().get_credentials()
    assert credentials.method == "assume-role-with-web-identity"
    assert credentials.get_frozen_credentials().token


def test_the_token_is_given_to_the_images_user_where_ray_mounts_it() -> None:
    config = launcher("gcp.yaml")
    (remote,) = config["file_mounts"]
    where = f"{get_docker_host_mount_location(config['cluster_name'])}/{remote}"
    assert f'test ! -f "{where}" || sudo chown 1000 "{where}"' in config["initialization_commands"]


def test_the_node_keeps_googles_word_in_a_file(tmp_path: Path) -> None:
    (command,) = [line for line in launcher("gcp.yaml")["initialization_commands"] if "printf" in line]
    script, install = command.rsplit("|", 1)
    assert install.split() == ["sudo", "install", "-m", "755", "/dev/stdin", "/usr/local/bin/google-token"]
    text = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout
    # Its commands but for `mv`, which is real.
    (tmp_path / "curl").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > asked; echo word > google-token.new\n')
    (tmp_path / "chown").write_text("#!/bin/sh\n")
    for name in ("curl", "chown"):
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    script = text.replace("/opt/cache", str(tmp_path))
    subprocess.run(["sh", "-c", script], check=True, env={"PATH": path})
    assert (tmp_path / "google-token").read_text() == "word\n"
    assert (tmp_path / "google-token").stat().st_mode & 0o777 == 0o600
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[asked.index("-H") + 1] == "Metadata-Flavor: Google"
    url = urlsplit(asked[-1])
    assert url.hostname == "metadata.google.internal"
    trust = policy("gcp-aws-trust.json")[0]["Condition"]["StringEquals"]
    assert parse_qs(url.query) == {"audience": [trust["accounts.google.com:oaud"]], "format": ["full"]}
