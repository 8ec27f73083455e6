"""What a training hands to its workers; Ray's controller of them loads it, too, and need load no torch for it."""

from dataclasses import dataclass
from typing import Any

from ldm_scale.config.train import TrainConfig
from ldm_scale.data.task import ReadTask


@dataclass(frozen=True)
class Job:
    """What every worker is given: the configuration, what the manifest says, and what is recorded with the target.

    cpus: threads that a worker has: as many as the CPUs that it reserves.
    """

    config: TrainConfig
    members: tuple[ReadTask, ...]
    classes: int
    record: dict[str, Any]
    cpus: int = 1

    @property
    def count(self) -> int:
        """Members in all."""
        return sum(task.samples for task in self.members)
