"""A training worker's part of the members, read once; the order of the epochs is made here, not by the readers."""

from collections.abc import Iterator, Sequence
from itertools import islice

import pyarrow as pa
import torch
from jaxtyping import UInt8
from torch import Tensor

from ldm_scale.config.train import TrainConfig
from ldm_scale.data.addresses import Shards
from ldm_scale.data.split import MEMBERS
from ldm_scale.data.task import ReadTask
from ldm_scale.engine.blame import blamed
from ldm_scale.engine.reading import decode_block, read_blocks
from ldm_scale.errors import RunError, UsageError
from ldm_scale.schema import as_pixels
from ldm_scale.targets.captions import caption_of_epoch
from ldm_scale.training.conditions import Batch, Condition
from ldm_scale.training.tables import Table, Turn, turns

# Images that are decoded at once: a few hundred MB of pixels at 512 px.
DECODED = 256


def member_shards(shards: Shards) -> list[ReadTask]:
    """The shards of members.

    Raises:
        UsageError: There are none.
    """
    members = [shard for shard in shards.manifest.shards if shard.side == MEMBERS]
    if not members:
        raise UsageError(f"{shards.folder} has no {MEMBERS}/ shards to train on")
    return [ReadTask(folder=shards.folder.uri, shard=shard, membership=True) for shard in members]


def part_of(tasks: Sequence[ReadTask], worker: int, workers: int) -> list[ReadTask]:
    """The part of all samples that one of several workers reads: one run of them in the shards' order.

    Parts are as equal as can be, and each sample is in one of them.
    """
    total = sum(task.samples for task in tasks)
    first, last = (total * number // workers for number in (worker, worker + 1))
    part = []
    for task in tasks:
        span = max(first, 0), min(last, task.shard.samples)
        if span[0] < span[1]:
            part.append(task.model_copy(update={"span": span}))
        first, last = first - task.shard.samples, last - task.shard.samples
    return part


class Members:
    """What one worker trains on: each worker on its own part alone, and on every sample of it once an epoch.

    Args:
        config: of the training.
        tasks: this worker's, as `part_of` gives them.
        condition: what the denoiser is given beside.
        name: of the worker, for its own order.
        threads: that decode images.
    """

    def __init__(
        self, config: TrainConfig, tasks: Sequence[ReadTask], condition: Condition, name: str, threads: int
    ) -> None:
        self._config, self._tasks, self._condition = config, tasks, condition
        self._name, self._threads = name, threads
        self._ids: list[str] = []
        self._labels: list[int | None] = []
        self._captions: list[list[str]] = []
        self.count = sum(task.samples for task in tasks)

    def read(self) -> Iterator[UInt8[Tensor, "b 3 H W"]]:
        """The pixels of all samples, in order; their labels and captions stay here, for `batches`.

        Raises:
            RunError: A sample, which it names, cannot be trained on, or a shard cannot be read.
        """
        with blamed():
            for task in self._tasks:
                for table in read_blocks(task):
                    for start in range(0, len(table), DECODED):
                        yield self._decode(table.slice(start, DECODED))

    def _decode(self, table: pa.Table) -> UInt8[Tensor, "b 3 H W"]:
        decoded = decode_block(table, self._config.images, self._config.size, self._threads)
        for row in decoded.select(["sample_id", "captions", "label", "reject"]).to_pylist():
            self._check(row["sample_id"], row["captions"], row["label"], row["reject"])
            self._ids.append(row["sample_id"])
            self._labels.append(row["label"])
            self._captions.append(row["captions"])
        return torch.from_numpy(as_pixels(decoded["pixels"], self._config.size).copy())

    def _check(self, sample_id: str, captions: list[str], label: int | None, reject: str | None) -> None:
        if reject:
            raise RunError(f"training image {sample_id}: {reject}; run `ldm-scale pack` again without it")
        # Of a random choice, any may come.
        chosen: Sequence[str | None] = captions[:1] if self._config.captions == "first" else captions
        for caption in chosen or [None]:
            if lacking := self._condition.lacks(label, caption):
                raise RunError(f"training sample {sample_id} has no {lacking}; run `ldm-scale pack` again without it")

    def batches(self, table: Table, stage: str, size: int, first: int, device: torch.device) -> Iterator[Batch]:
        """Batches of `size` samples of what a table holds of them, without end.

        Args:
            table: of this worker's samples, in the order in which they were read.
            stage: whose order this is.
            size: samples of a batch.
            first: samples that were taken already, by the same training before it stopped.
            device: of the batches.
        """
        name, config = f"{stage} of {self._name}", self._config
        waiting = turns(self.count, config.seed, name, first, config.flip)
        while True:
            some = [*islice(waiting, size)]
            numbers = torch.tensor([turn.number for turn in some])
            mirrored = torch.tensor([turn.mirrored for turn in some])
            labels = [self._labels[turn.number] for turn in some]
            yield Batch(table(numbers, mirrored, device), labels, [self._caption(turn) for turn in some])

    def _caption(self, turn: Turn) -> str | None:
        captions, name = self._captions[turn.number], self._ids[turn.number]
        return caption_of_epoch(captions, self._config.captions, self._config.seed, name, turn.epoch)
