"""What a reader of shards is handed."""

from pydantic import BaseModel, ConfigDict

from ldm_scale.data.manifest import ShardInfo
from ldm_scale.randomness import keyed_generator
from ldm_scale.schema import sample_id


class ReadTask(BaseModel):
    """One shard to read: which of its samples are members, which keys are done, and what share is drawn of the rest.

    span: of its samples, counted from 0, the first that is read and the one before which reading ends; None: all.
    """

    model_config = ConfigDict(frozen=True)

    folder: str
    shard: ShardInfo
    membership: bool | dict[str, bool]
    done: frozenset[str] = frozenset()
    share: float = 1.0
    seed: int = 0
    span: tuple[int, int] | None = None

    @property
    def samples(self) -> int:
        """Samples that are read, wanted or not."""
        first, last = self.span or (0, self.shard.samples)
        return last - first

    def is_member(self, key: str) -> bool | None:
        """True for members, False for held-out, None for samples that are not wanted."""
        if key in self.done:
            return None
        name = sample_id(self.shard.stem, key)
        if self.share < 1 and keyed_generator(self.seed, name, "calibration").random() >= self.share:
            return None
        return self.membership if isinstance(self.membership, bool) else self.membership.get(key)
