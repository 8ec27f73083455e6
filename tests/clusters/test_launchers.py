"""What the launcher files of both clouds promise, as Ray itself reads them."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import ray
from packaging.requirements import Requirement
from packaging.version import Version
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ResourceRequestByCount
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

from tests.clusters.launchers import CLUSTERS, environment, launcher

FILES = ["aws.yaml", "gcp.yaml"]
PROJECT = tomllib.loads((CLUSTERS.parent / "pyproject.toml").read_text())["project"]
IMAGE = re.compile(r"^[a-z0-9.-]+(/[a-z0-9-]+)+:(?P<version>[0-9.]+)-ray(?P<ray>[0-9.]+)$")


@pytest.fixture(params=FILES)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return launcher(request.param)


def starts(config: dict[str, Any], who: str) -> list[str]:
    """The words of the `ray start` of the head or of a worker."""
    (command,) = [line for line in config[f"{who}_start_ray_commands"] if "ray start" in line]
    return shlex.split(command)


def workers(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]}


def test_the_dashboard_is_on_loopback_and_the_token_on_everywhere(config: dict[str, Any]) -> None:
    assert "--dashboard-host=127.0.0.1" in starts(config, "head")
    assert environment(config)["RAY_AUTH_MODE"] == "token"
    # Where Ray looks for it unless told otherwise, on the laptop and on the nodes.
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & environment(config).keys()


def test_no_credential_is_written_down(config: dict[str, Any]) -> None:
    for path in CLUSTERS.glob("*"):
        if path.is_file():
            # The hashes of the lock are no secrets.
            text = re.sub("sha256:[0-9a-f]{64}", "", path.read_text())
            assert not re.search(r"\bAKIA[A-Z0-9]{16}\b|PRIVATE KEY|SECRET_ACCESS_KEY|HF_TOKEN=|[0-9a-f]{32}", text), (
                path
            )
    assert "aws_credentials" not in config["provider"]
    assert "gcp_credentials" not in config["provider"]


def test_the_head_has_no_gpu_and_gpus_come_from_zero(config: dict[str, Any]) -> None:
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"]["GPU"] == 0
    assert head["max_workers"] == 0
    assert "--num-gpus=0" in starts(config, "head")
    assert "--gpus=all" in config["docker"]["worker_run_options"]
    assert not any("--gpus" in option for option in config["docker"]["run_options"])
    for kind in workers(config).values():
        assert kind["min_workers"] == 0
        assert kind["resources"]["GPU"] == 1
        assert kind["max_workers"] == config["max_workers"] == 64
    assert 0 < config["idle_timeout_minutes"] <= 10
    assert config["provider"]["cache_stopped_nodes"] is False


def test_the_image_is_pinned_to_this_package_and_its_ray(config: dict[str, Any]) -> None:
    image = IMAGE.match(config["docker"]["image"])
    assert image, config["docker"]["image"]
    assert image["version"] == PROJECT["version"]
    (pinned,) = [found for found in map(Requirement, PROJECT["dependencies"]) if found.name == "ray"]
    assert Version(image["ray"]) in pinned.specifier
    # `ray up` needs the same version on both sides.
    assert image["ray"] == ray.__version__
    assert not {"head_image", "worker_image"} & config["docker"].keys()


def test_models_lie_on_the_nodes_disk_and_not_in_the_container(config: dict[str, Any]) -> None:
    (volume,) = [option for option in config["docker"]["run_options"] if option.startswith("--volume=")]
    host, inside = volume.removeprefix("--volume=").split(":")
    for name in ("HF_HOME", "LDM_SCALE_CACHE"):
        assert Path(environment(config)[name]).is_relative_to(inside)
    # The image's user is no root: it must own the folder before docker would make it root's.
    assert f"sudo install -d -o 1000 -m 700 {host}" in config["initialization_commands"]


def test_workers_join_the_port_that_the_head_opens(config: dict[str, Any]) -> None:
    head, worker = starts(config, "head"), starts(config, "worker")
    (port,) = [word.removeprefix("--port=") for word in head if word.startswith("--port=")]
    assert f"--address=$RAY_HEAD_IP:{port}" in worker
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head


@pytest.mark.parametrize("name", FILES)
def test_what_is_to_be_filled_in_stands_in_one_block(name: str) -> None:
    text = re.sub(r"(?m)(^|\s)#.*$", "", (CLUSTERS / name).read_text())
    before, _, rest = text.partition("\nmetadata:\n")
    block, _, after = rest.partition("\nprovider:\n")
    placeholder = re.compile(r"my-\w+|MY-\w+|123456789012|ami-0123456789abcdef0")
    assert placeholder.search(block)
    assert not placeholder.search(before + after)


def decide(config: dict[str, Any], gpus: int) -> dict[str, int]:
    """The nodes that Ray's autoscaler launches for this many auditors."""
    read = AutoscalingConfig(config, skip_content_hash=True)
    request = ResourceRequestByCount(request=ResourceRequestUtil.make({"GPU": 1, "CPU": 1}), count=gpus)
    reply = ResourceDemandScheduler(event_logger=None).schedule(
        SchedulingRequest(
            node_type_configs=read.get_node_type_configs(),
            max_num_nodes=read.get_max_num_nodes(),
            resource_requests=[request],
            disable_launch_config_check=True,
        )
    )
    assert not reply.infeasible_resource_requests or gpus > config["max_workers"]
    return {launch.instance_type: launch.count for launch in reply.to_launch}


def test_rays_autoscaler_wants_a_worker_a_gpu_up_to_the_limit(config: dict[str, Any]) -> None:
    assert decide(config, 0) == {}
    assert decide(config, 3) == {"gpu": 3}
    assert decide(config, 100) == {"gpu": 64}


def test_rays_autoscaler_does_not_leave_a_type_that_the_cloud_refuses() -> None:
    # Why ldm_scale/engine/spot.py is there: once this fails, node types of falling priority do the same.
    monitor = CloudResourceMonitor()
    monitor.notify([InstanceUpdateEvent(instance_type="gpu", new_instance_status=Instance.ALLOCATION_FAILED)])
    assert monitor.get_recoverable_resource_availabilities() == {}
    monitor.notify([InstanceUpdateEvent(instance_type="gpu", new_instance_status=Instance.ALLOCATION_TIMEOUT)])
    assert monitor.get_recoverable_resource_availabilities() == {"gpu": 0.0}
