"""clusters/aws.yaml and its policies: Ray's own AWS code against moto's EC2, our S3 calls against a real server."""

import copy
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import boto3
import pytest
from botocore import xform_name
from moto import mock_aws
from ray.autoscaler._private import commands
from ray.autoscaler._private.aws import config as aws_config
from ray.autoscaler._private.aws.utils import client_cache, resource_cache
from ray.autoscaler._private.providers import _get_node_provider, _get_node_provider_cls
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter

from tests.clusters.launchers import actions, allows, as_list, launcher, policy

NODE = policy("aws-policy.json")
HEAD = NODE + policy("aws-head-policy.json")


class Cloud:
    """What the head of a cluster does: Ray's provider before moto's EC2."""

    def __init__(self, config: dict[str, Any]) -> None:
        forget()
        self.config = config
        self.provider = _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)
        self.ec2 = boto3.client("ec2", region_name=config["provider"]["region"])
        # (operation, parameters) of each call that the provider made.
        self.calls: list[tuple[str, dict[str, Any]]] = []
        # How many spot instances EC2 gives to one request.
        self.most_spot = 100
        for client in {self.provider.ec2.meta.client, self.provider.ec2_fail_fast.meta.client}:
            client.meta.events.register("provide-client-params.ec2", self._note)

    def _note(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        self.calls.append((model.name, dict(params)))
        if model.name == "RunInstances":
            # EC2 gives as many as it has, moto the least that is asked for.
            params["MinCount"] = min(params["MaxCount"], self.most_spot if "InstanceMarketOptions" in params else 100)

    def launch(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """What EC2 says of new nodes of a type."""
        role = "head" if kind == "head" else "worker"
        tags = {"ray-node-type": role, "ray-user-node-type": kind, "ray-launch-config": "hash"}
        node_config = self.config["available_node_types"][kind]["node_config"]
        return self.describe(self.provider.create_node(node_config, tags, count))

    def describe(self, ids: Any) -> list[dict[str, Any]]:
        answer = self.ec2.describe_instances(InstanceIds=list(ids))
        return [instance for reservation in answer["Reservations"] for instance in reservation["Instances"]]

    def refuse(self, is_refused: Callable[[dict[str, str]], bool], code: str = "InsufficientInstanceCapacity") -> None:
        """Let EC2 answer some requests for instances as it does when it has none."""

        def answer(params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]] | None:
            if not is_refused(params["body"]):
                return None
            return SimpleNamespace(status_code=500), {
                "Error": {"Code": code, "Message": "none left"},
                "ResponseMetadata": {},
            }

        self.provider.ec2_fail_fast.meta.client.meta.events.register("before-call.ec2.RunInstances", answer)


def forget() -> None:
    """Let Ray make its clients anew: their hooks are those of one test."""
    for cached in (resource_cache, client_cache, aws_config._get_subnets_or_die):
        cached.cache_clear()


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """An account with the two instance profiles; the launcher file as `ray up` has worked it out there."""
    with pytest.MonkeyPatch.context() as patch:
        # Not the S3 server that other tests point to, and not the user's ~/.ssh.
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        forget()
        with mock_aws():
            iam = boto3.client("iam", region_name="us-west-2")
            for name in ("ldm-scale-head", "ldm-scale-worker"):
                iam.create_instance_profile(InstanceProfileName=name)
            config = launcher("aws.yaml")
            provider = _get_node_provider_cls(config["provider"])
            yield provider.bootstrap_config(config)
        forget()


@pytest.fixture
def cloud(account: dict[str, Any]) -> Iterator[Cloud]:
    cloud = Cloud(account)
    yield cloud
    if running := cloud.provider.non_terminated_nodes({}):
        cloud.ec2.terminate_instances(InstanceIds=running)


def spot(body: dict[str, str]) -> bool:
    return body.get("InstanceMarketOptions.MarketType") == "spot"


def bought(instances: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return sorted((instance["InstanceType"], instance.get("InstanceLifecycle", "on demand")) for instance in instances)


def test_the_head_is_on_demand_without_a_gpu_and_workers_are_spot(cloud: Cloud) -> None:
    assert bought(cloud.launch("head")) == [("m7i.2xlarge", "on demand")]
    assert bought(cloud.launch("gpu", 2)) == [("g6.2xlarge", "spot")] * 2
    facts = cloud.ec2.describe_instance_types(InstanceTypes=["m7i.2xlarge", "g6.2xlarge", "g6.4xlarge"])
    facts = {fact["InstanceType"]: fact for fact in facts["InstanceTypes"]}
    assert "GpuInfo" not in facts["m7i.2xlarge"]
    # What Ray is told of a worker is true of whatever is bought.
    resources = cloud.config["available_node_types"]["gpu"]["resources"]
    for name in ("g6.2xlarge", "g6.4xlarge"):
        (gpu,) = facts[name]["GpuInfo"]["Gpus"]
        assert (gpu["Count"], gpu["Name"], gpu["MemoryInfo"]["SizeInMiB"] > 22_000) == (resources["GPU"], "L4", True)
        assert facts[name]["VCpuInfo"]["DefaultVCpus"] >= resources["CPU"]
        # Ray works out the memory from the first.
        assert facts[name]["MemoryInfo"]["SizeInMiB"] >= facts["g6.2xlarge"]["MemoryInfo"]["SizeInMiB"]
    assert (
        facts["m7i.2xlarge"]["VCpuInfo"]["DefaultVCpus"]
        == cloud.config["available_node_types"]["head"]["resources"]["CPU"]
    )


@pytest.mark.parametrize(
    ("kind", "profile", "gigabytes"), [("head", "ldm-scale-head", 160), ("gpu", "ldm-scale-worker", 300)]
)
def test_what_a_node_gets(cloud: Cloud, kind: str, profile: str, gigabytes: int) -> None:
    (node,) = cloud.launch(kind)
    assert node["IamInstanceProfile"]["Arn"].endswith(f":instance-profile/{profile}")
    assert node["ImageId"] == "ami-0123456789abcdef0"
    assert node["MetadataOptions"]["HttpTokens"] == "required"
    assert node["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    tags = {tag["Key"]: tag["Value"] for tag in node["Tags"]}
    assert tags["ray-cluster-name"] == "ldm-scale"
    (disk,) = node["BlockDeviceMappings"]
    assert disk["DeviceName"] == node["RootDeviceName"] == "/dev/sda1"
    assert disk["Ebs"]["DeleteOnTermination"] is True
    (volume,) = cloud.ec2.describe_volumes(VolumeIds=[disk["Ebs"]["VolumeId"]])["Volumes"]
    assert (volume["Size"], volume["VolumeType"], volume["Encrypted"]) == (gigabytes, "gp3", True)


def test_only_ssh_comes_in_from_outside(cloud: Cloud) -> None:
    groups = {
        group["GroupId"] for kind in ("head", "gpu") for node in cloud.launch(kind) for group in node["SecurityGroups"]
    }
    (group,) = cloud.ec2.describe_security_groups(GroupIds=list(groups))["SecurityGroups"]
    assert group["GroupName"] == "ldm-scale"
    inside = [rule for rule in group["IpPermissions"] if rule["UserIdGroupPairs"]]
    outside = [
        rule for rule in group["IpPermissions"] if rule["IpRanges"] or rule["Ipv6Ranges"] or rule["PrefixListIds"]
    ]
    assert [pair["GroupId"] for rule in inside for pair in rule["UserIdGroupPairs"]] == [group["GroupId"]]
    assert [(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in outside] == [("tcp", 22, 22)]
    assert len(inside) + len(outside) == len(group["IpPermissions"])


def test_a_group_made_before_keeps_its_narrower_rules(account: dict[str, Any]) -> None:
    ec2 = boto3.client("ec2", region_name="us-west-2")
    config = launcher("aws.yaml")
    config["provider"]["security_group"]["GroupName"] = "own"
    (vpc,) = ec2.describe_vpcs()["Vpcs"]
    group = ec2.create_security_group(GroupName="own", Description="narrower", VpcId=vpc["VpcId"])["GroupId"]
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "192.0.2.7/32"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[ssh])
    bootstrapped = _get_node_provider_cls(config["provider"]).bootstrap_config(config)
    assert bootstrapped["available_node_types"]["gpu"]["node_config"]["SecurityGroupIds"] == [group]
    (found,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert [rule["IpRanges"] for rule in found["IpPermissions"]] == [[{"CidrIp": "192.0.2.7/32"}]]


def test_where_spot_has_none_left_workers_are_bought_otherwise(cloud: Cloud) -> None:
    cloud.refuse(lambda body: spot(body) and body["InstanceType"] == "g6.2xlarge")
    assert bought(cloud.launch("gpu", 2)) == [("g6.4xlarge", "spot")] * 2
    cloud.refuse(spot)
    assert bought(cloud.launch("gpu", 2)) == [("g6.2xlarge", "on demand")] * 2


def test_what_spot_lacks_of_a_request_is_bought_otherwise(cloud: Cloud) -> None:
    cloud.most_spot = 1
    assert bought(cloud.launch("gpu", 4)) == [
        ("g6.2xlarge", "on demand"),
        ("g6.2xlarge", "on demand"),
        ("g6.2xlarge", "spot"),
        ("g6.4xlarge", "spot"),
    ]


def test_a_fault_of_the_request_is_no_lack_and_a_lack_of_all_is_told(cloud: Cloud) -> None:
    cloud.refuse(spot, "UnauthorizedOperation")
    with pytest.raises(NodeLaunchException, match="UnauthorizedOperation"):
        cloud.launch("gpu")
    assert {call["InstanceType"] for name, call in cloud.calls if name == "RunInstances"} == {"g6.2xlarge"}


def test_a_lack_of_everything_is_told(cloud: Cloud) -> None:
    cloud.refuse(lambda body: True)
    with pytest.raises(NodeLaunchException, match="InsufficientInstanceCapacity"):
        cloud.launch("gpu")
    # The head is what it is.
    tried = len(cloud.calls)
    with pytest.raises(NodeLaunchException):
        cloud.launch("head")
    assert {call["InstanceType"] for _, call in cloud.calls[tried:]} == {"m7i.2xlarge"}


def test_rays_autoscaler_gets_its_worker_from_whichever_market(cloud: Cloud) -> None:
    cloud.refuse(spot)
    config = {name: value for name, value in cloud.config.items() if name != "head_node"}
    reader = SimpleNamespace(get_cached_autoscaling_config=lambda: AutoscalingConfig(config, skip_content_hash=True))
    adapter = NodeProviderAdapter(cloud.provider, reader)
    adapter.launch({"gpu": 2}, "request-1")
    adapter._main_executor.shutdown(wait=True)
    adapter._node_launcher_executors.shutdown(wait=True)
    assert adapter.poll_errors() == []
    nodes = adapter.get_non_terminated()
    assert [(node.node_type, node.request_id) for node in nodes.values()] == [("gpu", "request-1")] * 2
    assert bought(cloud.describe(nodes)) == [("g6.2xlarge", "on demand")] * 2


class Shell:
    """In place of ssh and rsync: notes each command, and answers what Ray asks of a node."""

    ANSWERS: ClassVar = {
        "printenv HOME": "/home/ray",
        ".Config.Env": '["HOME=/home/ray"]',
        "command -v docker": "docker",
    }
    CalledProcessError = subprocess.CalledProcessError

    def __init__(self) -> None:
        self.commands: list[str] = []

    def check_output(self, command: list[str], *_: Any, **__: Any) -> bytes:
        self.commands.append(" ".join(command))
        return next((answer for asked, answer in self.ANSWERS.items() if asked in self.commands[-1]), "").encode()

    check_call = call = run = check_output


def test_ray_up_starts_a_head_that_wants_the_token_and_tells_it_to_nobody(
    account: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray/auth_token"
    token.parent.mkdir()
    token.write_text(uuid.uuid4().hex)
    forget()
    shell, config = Shell(), copy.deepcopy(account)
    config["file_mounts"] = {remote: os.path.expanduser(local) for remote, local in config["file_mounts"].items()}
    commands.get_or_create_head_node(config, "aws.yaml", False, False, True, None, _runner=shell)
    (run,) = [command for command in shell.commands if "docker run" in command]
    assert " --env=RAY_AUTH_MODE=token " in run
    assert "~/.ray/auth_token:/home/ray/.ray/auth_token " in run
    assert "--gpus" not in run
    (cache,) = [number for number, command in enumerate(shell.commands) if "install -d -o 1000" in command]
    assert cache < shell.commands.index(run), "docker would make the folder root's"
    # In the container, by Ray's second autoscaler.
    (start,) = [command for command in shell.commands if "ray start" in command]
    assert "docker exec" in start
    assert "RAY_enable_autoscaler_v2=1" in start
    assert "--dashboard-host=127.0.0.1" in start
    assert not any(token.read_text() in command for command in shell.commands)
    assert any(f"{token} " in command and "rsync" in command for command in shell.commands)


def run_instances(call: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The condition keys of a request for instances."""
    (tags,) = [spec["Tags"] for spec in call["TagSpecifications"] if spec["ResourceType"] == "instance"]
    return {
        "aws_RequestTag_ray_cluster_name": {tag["Key"]: tag["Value"] for tag in tags}["ray-cluster-name"],
        "ec2_InstanceType": call["InstanceType"],
        "ec2_MetadataHttpTokens": call["MetadataOptions"]["HttpTokens"],
        "ec2_InstanceProfile": f"arn:aws:iam::1:instance-profile/{call['IamInstanceProfile']['Name']}",
    } | changes


def test_the_head_may_do_to_workers_what_ray_does_and_no_more(cloud: Cloud) -> None:
    cloud.refuse(lambda body: spot(body) and body["InstanceType"] == "g6.2xlarge")
    (node,) = cloud.launch("gpu")
    cloud.refuse(spot)
    cloud.launch("gpu")
    cloud.provider.non_terminated_nodes({})
    cloud.provider.set_node_tags(node["InstanceId"], {"ray-node-status": "up-to-date", "ray-node-name": "worker"})
    cloud.provider.terminate_nodes([node["InstanceId"]])
    instance, ours = "arn:aws:ec2:us-west-2:1:instance/i-1", {"aws_ResourceTag_ray_cluster_name": "ldm-scale"}
    for name, call in cloud.calls:
        if name == "RunInstances":
            assert allows(HEAD, "ec2:RunInstances", instance, **run_instances(call))
            assert allows(HEAD, "ec2:CreateTags", instance, ec2_CreateAction="RunInstances")
            for change in (
                {"aws_RequestTag_ray_cluster_name": "other"},
                {"ec2_InstanceType": "p5.48xlarge"},
                {"ec2_MetadataHttpTokens": "optional"},
                {"ec2_InstanceProfile": "arn:aws:iam::1:instance-profile/admin"},
            ):
                assert not allows(HEAD, "ec2:RunInstances", instance, **run_instances(call, **change))
        elif name == "CreateTags":
            keys = [tag["Key"] for tag in call["Tags"]]
            assert allows(HEAD, "ec2:CreateTags", instance, aws_TagKeys=keys, **ours)
            assert not allows(HEAD, "ec2:CreateTags", instance, aws_TagKeys=keys)
            assert not allows(HEAD, "ec2:CreateTags", instance, aws_TagKeys=["owner"], **ours)
        elif name == "TerminateInstances":
            assert allows(HEAD, "ec2:TerminateInstances", instance, **ours)
            assert not allows(HEAD, "ec2:TerminateInstances", instance, aws_ResourceTag_ray_cluster_name="other")
        else:
            assert allows(HEAD, f"ec2:{name}", "*")
    # Nothing is allowed that Ray did not do.
    assert actions(HEAD, "ec2:".rstrip(":")) == {f"ec2:{name}" for name, _ in cloud.calls}
    passed = {"iam_PassedToService": "ec2.amazonaws.com"}
    assert allows(HEAD, "iam:PassRole", "arn:aws:iam::1:role/ldm-scale-worker", **passed)
    assert not allows(HEAD, "iam:PassRole", "arn:aws:iam::1:role/ldm-scale-head", **passed)
    assert not allows(HEAD, "iam:PassRole", "arn:aws:iam::1:role/ldm-scale-worker")
    assert actions(HEAD, "iam") == {"iam:PassRole"}
    # Workers start nothing.
    assert actions(NODE, "ec2") | actions(NODE, "iam") == set()


def test_the_policy_names_what_the_launcher_file_buys() -> None:
    config = launcher("aws.yaml")
    worker = config["available_node_types"]["gpu"]["node_config"]
    choices = [worker, *(worker | fallback for fallback in config["provider"]["fallbacks"])]
    (launch,) = [found for found in policy("aws-head-policy.json") if found["Sid"] == "LaunchWorkersOfThisClusterOnly"]
    wanted = launch["Condition"]["StringEquals"]
    assert set(wanted["ec2:InstanceType"]) == {choice["InstanceType"] for choice in choices}
    assert wanted["aws:RequestTag/ray-cluster-name"] == config["cluster_name"]


def test_every_action_is_one_of_aws() -> None:
    for statement in HEAD:
        for action in as_list(statement["Action"]):
            service, name = action.split(":")
            if action not in {"s3:ListBucket", "iam:PassRole"}:
                assert xform_name(name) in dir(boto3.client(service, region_name="us-west-2")), action
