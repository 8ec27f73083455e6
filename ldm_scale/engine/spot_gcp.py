"""Compute Engine's workers from the spot market, and bought otherwise where that has none, for clusters/gcp.yaml."""

import logging
from typing import Any

from ray.autoscaler._private.gcp.config import (
    _configure_key_pair,
    _configure_project,
    _configure_subnet,
    construct_clients_from_provider_config,
)
from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider

from ldm_scale.engine.spot import choices

# What an error of Compute Engine holds when another machine type, or another way to buy it, may be had.
NONE_LEFT = ("RESOURCE_POOL_EXHAUSTED", "QUOTA_EXCEEDED", "quotaExceeded")

logger = logging.getLogger(__name__)


class SpotFirst(GCPNodeProvider):  # type: ignore[misc]
    """Ray's provider for Google with one more option, `fallbacks`: in turn, what to change of a refused worker."""

    def create_node(self, base_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Start up to `count` machines and return them by name: what there is of the first choice, then the next.

        One at a time: of several that Ray starts together, a refusal does not tell which are there. Raises what
        Compute Engine says where none can be had, or for any other fault of the request.
        """
        created: dict[str, Any] = {}
        refused = None
        for choice in choices(base_config, tags, self.provider_config):
            try:
                while len(created) < count:
                    created |= super().create_node(choice, tags, 1)
            except Exception as error:
                if not any(word in str(error) for word in NONE_LEFT):
                    raise
                refused = error
                logger.warning("Compute Engine has no %s left: %s", choice["machineType"], error)
            if len(created) == count:
                break
        if not created and refused is not None:
            raise refused
        return created

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """What Ray works out at `ray up`, less a service account of its own, which could do much in the project.

        The nodes have the accounts that the launcher file names.
        """
        projects, _, compute, _ = construct_clients_from_provider_config(cluster_config["provider"])
        config = _configure_project(cluster_config, projects)
        return _configure_subnet(_configure_key_pair(config, compute), compute)
