"""EC2 workers from the spot market, and bought otherwise if that has none: the node provider of clusters/aws.yaml.

Ray 2.60 itself does not fall back: the autoscaler asks again and again for a node type that the cloud refuses, since
only an instance that was given and never came up lowers the rank of its type.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import NODE_KIND_WORKER, TAG_RAY_NODE_KIND

# What EC2 says when another instance type, or another way to buy it, may be had.
NONE_LEFT = {
    "InstanceLimitExceeded",
    "InsufficientInstanceCapacity",
    "MaxSpotInstanceCountExceeded",
    "SpotMaxPriceTooLow",
    "UnfulfillableCapacity",
    "Unsupported",
    "VcpuLimitExceeded",
}

logger = logging.getLogger(__name__)


class AwsSpotFirst(AWSNodeProvider):  # type: ignore[misc]
    """Ray's provider for AWS with one more option, `fallbacks`: in turn, what to change of a refused worker."""

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Start up to `count` instances and return them by id: what there is of the first choice, then the next.

        Raises:
            NodeLaunchException: None can be had, or the request has another fault.
        """
        create = super().create_node

        def start(choice: dict[str, Any], missing: int) -> Iterator[dict[str, Any]]:
            yield create(choice, tags, missing)

        def refusal(choice: dict[str, Any], error: Exception) -> str | None:
            if isinstance(error, NodeLaunchException) and error.category in NONE_LEFT:
                return f"EC2 has no {choice['InstanceType']} left: {error.category}"
            return None

        return start_first(choices(node_config, tags, self.provider_config), count, start, refusal)


def start_first(
    wanted: Iterable[dict[str, Any]],
    count: int,
    start: Callable[[dict[str, Any], int], Iterator[dict[str, Any]]],
    refusal: Callable[[dict[str, Any], Exception], str | None],
) -> dict[str, Any]:
    """Up to `count` nodes by id: what there is of the first choice, then of the next.

    start(choice, missing): nodes that have come up, as they do. refusal(choice, error): how to say that there is no
    more of a choice; None for any other fault, which is raised. So is the last refusal if no node can be had.
    """
    created: dict[str, Any] = {}
    refused = None
    for choice in wanted:
        try:
            for nodes in start(choice, count - len(created)):
                created |= nodes
        except Exception as error:
            if (message := refusal(choice, error)) is None:
                raise
            refused = error
            logger.warning("%s", message)
        if len(created) == count:
            break
    if not created and refused is not None:
        raise refused
    return created


def choices(
    node_config: dict[str, Any], tags: dict[str, str], provider_config: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """A node as it is wanted and, if it is a worker, as else it may be; a fallback's null leaves an option out."""
    yield node_config
    if tags[TAG_RAY_NODE_KIND] == NODE_KIND_WORKER:
        for fallback in provider_config["fallbacks"]:
            yield {key: value for key, value in (node_config | fallback).items() if value is not None}
