"""The KubeRay manifests: Kubernetes' own schemas, and what they promise of growth, credentials and access."""

import re
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.clusters.pins import locked

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "clusters" / "kuberay"
KUBERNETES = "1.32"
DOCUMENTS = [
    document
    for path in sorted(FOLDER.glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]


def one(kind: str, name: str | None = None) -> dict[str, Any]:
    """The only document of a kind, and of a name."""
    (found,) = [
        document for document in DOCUMENTS if document["kind"] == kind and name in (None, document["metadata"]["name"])
    ]
    return found


JOB = one("RayJob")["spec"]
CLUSTERS = {"cluster": one("RayCluster")["spec"], "job": JOB["rayClusterSpec"]}
GROUPS = [
    pytest.param(group, id=f"{name}-{group['groupName']}")
    for name, cluster in CLUSTERS.items()
    for group in cluster["workerGroupSpecs"]
]
RAY_PODS = {
    **{f"{name}-head": cluster["headGroupSpec"]["template"]["spec"] for name, cluster in CLUSTERS.items()},
    **{str(param.id): param.values[0]["template"]["spec"] for param in GROUPS},
}
PODS = {
    **RAY_PODS,
    "submitter": JOB["submitterPodTemplate"]["spec"],
    "redis": one("StatefulSet")["spec"]["template"]["spec"],
}
every_pod = pytest.mark.parametrize("pod", [pytest.param(pod, id=name) for name, pod in PODS.items()])


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    return only


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(document, id=f"{document['kind']}-{document['metadata']['name']}")
        for document in DOCUMENTS
        if not document["apiVersion"].startswith("ray.io/")
    ],
)
def test_objects_follow_the_schema_of_kubernetes(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@every_pod
def test_pods_follow_the_schema_of_kubernetes(pod: dict[str, Any]) -> None:
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod}, KUBERNETES, strict=True
    )


@every_pod
def test_a_namespace_with_a_quota_takes_every_pod(pod: dict[str, Any]) -> None:
    """kuberay #1043: a quota of CPUs and memory refuses a container without requests and limits of both."""
    for kind in ("requests", "limits"):
        assert container(pod)["resources"][kind].keys() >= {"cpu", "memory"}


@pytest.mark.parametrize(("kind", "most"), [("RayJob", 47), ("RayCluster", 53)])
def test_names_are_as_short_as_kuberay_wants_them(kind: str, most: int) -> None:
    """kuberay #3083: longer ones are not reconciled, for services add to them."""
    assert len(one(kind)["metadata"]["name"]) <= most


# Kubernetes' pod security standard "restricted".
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@every_pod
def test_pods_are_restricted(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(pod)["securityContext"].items() >= RESTRICTED.items()
    assert not {"privileged", "runAsUser", "runAsNonRoot"} & set(container(pod)["securityContext"])
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    for volume in pod.get("volumes", []):
        assert set(volume) <= {"name", "emptyDir", "persistentVolumeClaim"}


@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
def test_the_autoscaler_is_restricted(cluster: dict[str, Any]) -> None:
    assert cluster["autoscalerOptions"]["securityContext"] == RESTRICTED


def test_only_the_head_may_talk_to_kubernetes() -> None:
    assert {name for name, pod in PODS.items() if pod.get("automountServiceAccountToken", True)} == {
        "cluster-head",
        "job-head",
    }


@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
def test_ray_wants_the_token_of_a_secret(cluster: dict[str, Any]) -> None:
    assert cluster["authOptions"] == {"mode": "token", "secretName": "ldm-scale-ray"}


def test_no_secret_is_in_a_file() -> None:
    assert not [document for document in DOCUMENTS if document["kind"] == "Secret"]
    for pod in PODS.values():
        for variable in container(pod).get("env", []):
            if re.search("KEY|TOKEN|SECRET|PASSWORD", variable["name"]):
                assert set(variable["valueFrom"]) == {"secretKeyRef"}


def test_s3_is_reached_by_role_or_by_secret() -> None:
    account = one("ServiceAccount")
    assert account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].startswith("arn:aws:iam::")
    for pod in RAY_PODS.values():
        assert pod["serviceAccountName"] == account["metadata"]["name"]
        assert container(pod)["envFrom"] == [{"secretRef": {"name": "ldm-scale-s3", "optional": True}}]


def test_models_are_kept_on_the_shared_volume() -> None:
    claim = one("PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in RAY_PODS.values():
        (volume,) = [volume for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (mount,) = [mount for mount in container(pod)["volumeMounts"] if mount["name"] == volume["name"]]
        environment = {variable["name"]: variable["value"] for variable in container(pod)["env"]}
        for name in ("LDM_SCALE_CACHE", "HF_HOME"):
            assert Path(environment[name]).is_relative_to(mount["mountPath"])


def test_images_and_ray_are_of_the_pinned_versions() -> None:
    ray = locked()["ray"].version
    assert {container(pod)["image"] for name, pod in PODS.items() if name != "redis"} == {
        f"my-registry/ldm-scale:{version('ldm_scale')}-ray{ray}"
    }
    assert {cluster["rayVersion"] for cluster in CLUSTERS.values()} == {ray}
    assert re.fullmatch(r"redis:\d+\.\d+\.\d+", container(PODS["redis"])["image"])


@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
def test_the_cluster_grows_by_itself_and_gives_no_work_to_the_head(cluster: dict[str, Any]) -> None:
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("group", GROUPS)
def test_workers_start_from_none(group: dict[str, Any]) -> None:
    assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]
    resources = container(group["template"]["spec"])["resources"]
    assert resources["requests"] == resources["limits"], "Ray counts limits, Kubernetes requests"


@pytest.mark.parametrize("group", GROUPS)
def test_only_gpu_workers_take_gpu_nodes(group: dict[str, Any]) -> None:
    pod = group["template"]["spec"]
    is_gpu = group["groupName"] == "gpu"
    assert pod["nodeSelector"] == {"ldm-scale/pool": group["groupName"]}
    assert container(pod)["resources"]["limits"].get("nvidia.com/gpu") == ("1" if is_gpu else None)
    taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert pod.get("tolerations") == ([taint] if is_gpu else None)


def test_the_job_may_ask_for_all_gpus_of_its_cluster() -> None:
    (gpus,) = [group for group in JOB["rayClusterSpec"]["workerGroupSpecs"] if group["groupName"] == "gpu"]
    script, most = re.fullmatch(r"python (jobs/\w+\.py) --gpus 0\.\.(\d+)", JOB["entrypoint"]).groups()
    assert int(most) == gpus["maxReplicas"]
    assert (REPOSITORY / script).is_file()


def test_a_failed_job_is_tried_again_on_a_new_cluster_which_goes_at_its_end() -> None:
    assert JOB["backoffLimit"] > 0
    assert JOB["shutdownAfterJobFinishes"] is True
    assert JOB["ttlSecondsAfterFinished"] <= 3600


def test_the_clusters_differ_in_redis_alone() -> None:
    service = one("Service")
    (port,) = service["spec"]["ports"]
    lasting = dict(CLUSTERS["cluster"])
    assert lasting.pop("gcsFaultToleranceOptions") == {
        "redisAddress": f"{service['metadata']['name']}:{port['port']}",
        "redisPassword": {"valueFrom": container(PODS["redis"])["env"][0]["valueFrom"]},
    }
    assert lasting == CLUSTERS["job"]


@dataclass(frozen=True)
class Peer:
    """A pod as network policies see it."""

    namespace: str
    labels: dict[str, str] = field(default_factory=dict)


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """A label selector of Kubernetes: all of its terms; an empty one selects everything."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "In" for expression in expressions)
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(expression["key"]) in expression["values"] for expression in expressions
    )


def admits(rule: dict[str, Any], source: Peer, port: int, namespace: str) -> bool:
    """An ingress rule of a policy in namespace: no ports are all ports, no namespaceSelector is the policy's own."""

    def is_peer(peer: dict[str, Any]) -> bool:
        assert set(peer) <= {"podSelector", "namespaceSelector"}
        if "namespaceSelector" in peer:
            near = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": source.namespace})
        else:
            near = source.namespace == namespace
        return near and selects(peer.get("podSelector", {}), source.labels)

    ports = rule.get("ports")
    return any(is_peer(peer) for peer in rule["from"]) and (ports is None or {"protocol": "TCP", "port": port} in ports)


def is_allowed(source: Peer, target: Peer, port: int) -> bool:
    """Whether a TCP connection is let in: by any rule of a policy that selects the target, or where none does."""
    policies = [
        document["spec"]
        for document in DOCUMENTS
        if document["kind"] == "NetworkPolicy" and selects(document["spec"]["podSelector"], target.labels)
    ]
    return not policies or any(
        admits(rule, source, port, target.namespace) for policy in policies for rule in policy["ingress"]
    )


# Labels as KubeRay and its Helm chart set them.
HEAD = Peer("ldm-scale", {"ray.io/is-ray-node": "yes", "ray.io/node-type": "head"})
WORKER = Peer("ldm-scale", {"ray.io/is-ray-node": "yes", "ray.io/node-type": "worker"})
CLEANUP = Peer("ldm-scale", {"ray.io/is-ray-node": "yes", "ray.io/node-type": "redis-cleanup"})
SUBMITTER = Peer("ldm-scale", {"ray.io/originated-from-crd": "RayJob"})
REDIS = Peer("ldm-scale", one("StatefulSet")["spec"]["template"]["metadata"]["labels"])
OPERATOR = Peer("kuberay-system", {"app.kubernetes.io/name": "kuberay-operator"})
IMPOSTOR = Peer("elsewhere", {"app.kubernetes.io/name": "kuberay-operator"})
NEIGHBOUR = Peer("kuberay-system", {"app.kubernetes.io/name": "something-else"})
STRANGER = Peer("elsewhere", {"ray.io/is-ray-node": "yes", "ray.io/node-type": "head"})


@pytest.mark.parametrize(
    ("source", "target", "port", "allowed"),
    [
        (WORKER, HEAD, 6379, True),
        (WORKER, WORKER, 10002, True),
        (HEAD, WORKER, 10002, True),
        (SUBMITTER, HEAD, 8265, True),
        (OPERATOR, HEAD, 8265, True),
        (OPERATOR, HEAD, 6379, False),
        (OPERATOR, HEAD, 10001, False),
        (OPERATOR, WORKER, 10002, False),
        (IMPOSTOR, HEAD, 8265, False),
        (NEIGHBOUR, HEAD, 8265, False),
        (STRANGER, HEAD, 6379, False),
        (STRANGER, HEAD, 8265, False),
        (STRANGER, WORKER, 10002, False),
        (HEAD, REDIS, 6379, True),
        (CLEANUP, REDIS, 6379, True),
        (WORKER, REDIS, 6379, False),
        (STRANGER, REDIS, 6379, False),
        (HEAD, REDIS, 22, False),
    ],
)
def test_ports_of_ray_stay_in_the_namespace(source: Peer, target: Peer, port: int, allowed: bool) -> None:
    assert is_allowed(source, target, port) is allowed


def test_network_policies_are_about_ingress() -> None:
    for policy in (document for document in DOCUMENTS if document["kind"] == "NetworkPolicy"):
        assert policy["spec"]["policyTypes"] == ["Ingress"]
