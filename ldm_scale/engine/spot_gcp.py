"""Compute Engine's workers from the spot market, and bought otherwise if that has none, for clusters/gcp.yaml."""

from collections.abc import Iterator
from typing import Any

from ray.autoscaler._private.gcp.config import (
    _configure_key_pair,
    _configure_project,
    _configure_subnet,
    construct_clients_from_provider_config,
)
from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider

from ldm_scale.engine.spot import choices, start_first

# What an error of Compute Engine holds when another machine type, or another way to buy it, may be had.
NONE_LEFT = ("RESOURCE_POOL_EXHAUSTED", "QUOTA_EXCEEDED", "quotaExceeded")


class GcpSpotFirst(GCPNodeProvider):  # type: ignore[misc]
    """Ray's provider for Google with one more option, `fallbacks`: in turn, what to change of a refused worker."""

    def create_node(self, base_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Start up to `count` machines and return them by name: what there is of the first choice, then the next.

        One at a time: of several that Ray starts together, a refusal does not say which are there. Compute Engine's
        error is raised if none can be had, or the request has another fault.
        """
        create = super().create_node

        def start(choice: dict[str, Any], missing: int) -> Iterator[dict[str, Any]]:
            while missing > 0:
                created = create(choice, tags, 1)
                yield created
                missing -= len(created)

        def refusal(choice: dict[str, Any], error: Exception) -> str | None:
            if any(word in str(error) for word in NONE_LEFT):
                return f"Compute Engine has no {choice['machineType']} left: {error}"
            return None

        return start_first(choices(base_config, tags, self.provider_config), count, start, refusal)

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """What Ray works out at `ray up`, less a service account of its own, which could do much in the project.

        The nodes have the accounts that the launcher file names.
        """
        projects, _, compute, _ = construct_clients_from_provider_config(cluster_config["provider"])
        config = _configure_project(cluster_config, projects)
        return _configure_subnet(_configure_key_pair(config, compute), compute)
