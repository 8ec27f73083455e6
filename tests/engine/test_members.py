"""A worker's part of the members: which samples, read once, and what it trains on in each epoch."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm_scale.config.train import TrainConfig
from ldm_scale.data.addresses import open_shards
from ldm_scale.data.manifest import ShardInfo
from ldm_scale.data.task import ReadTask
from ldm_scale.engine import members
from ldm_scale.engine.members import Members, member_shards, part_of
from ldm_scale.randomness import keyed_generator
from ldm_scale.training.conditions import Unconditional
from ldm_scale.training.tables import Images, collect
from tests.conftest import tiny_recipe

CPU = torch.device("cpu")


def task(name: str, samples: int) -> ReadTask:
    return ReadTask(folder="f", shard=ShardInfo(name=name, samples=samples, bytes=1, sha256="0" * 64), membership=True)


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 12])
def test_every_sample_is_in_one_workers_part(workers: int) -> None:
    tasks = [task("a", 5), task("b", 1), task("c", 0), task("d", 6)]
    everything = [(one.shard.name, number) for one in tasks for number in range(one.shard.samples)]
    parts = [
        [(one.shard.name, number) for one in part_of(tasks, worker, workers) for number in range(*one.span)]
        for worker in range(workers)
    ]
    assert [sample for part in parts for sample in part] == everything
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def worker(config: TrainConfig, shards: Path, number: int, workers: int) -> Members:
    tasks = member_shards(open_shards(str(shards)))
    return Members(config, part_of(tasks, number, workers), Unconditional(), f"worker {number}", threads=1)


@pytest.mark.parametrize("workers", [1, 3])
def test_every_member_is_read_once_and_trained_on_once_an_epoch(tiny_shards: Path, workers: int) -> None:
    tasks = member_shards(open_shards(str(tiny_shards)))
    assert {one.shard.name.split("/")[0] for one in tasks} == {"members"}
    total = sum(one.shard.samples for one in tasks)
    config = tiny_recipe()
    seen: list[list[Tensor]] = [[], []]
    for number in range(workers):
        one = worker(config, tiny_shards, number, workers)
        images = Images(collect(one.read(), one.count, 1 << 24))
        batches = one.batches(images, "autoencoder", 1, 0, CPU)
        for epoch in seen:
            epoch += [batch.inputs[0] for batch in islice(batches, one.count)]
    for epoch in seen:
        assert len(epoch) == total
        assert len({image.numpy().tobytes() for image in epoch}) == total
    assert {image.numpy().tobytes() for image in seen[0]} == {image.numpy().tobytes() for image in seen[1]}


def test_a_training_that_goes_on_takes_what_was_left(tiny_shards: Path) -> None:
    """Whatever the size of its batches is."""
    config = tiny_recipe().model_copy(update={"flip": True})
    one = worker(config, tiny_shards, 0, 1)
    images = Images(collect(one.read(), one.count, 1 << 24))

    def inputs(size: int, first: int, last: int) -> Tensor:
        batches = one.batches(images, "denoiser", size, first, CPU)
        return torch.cat([batch.inputs for batch in islice(batches, (last - first) // size)])

    whole = inputs(4, 0, 72)
    assert torch.equal(inputs(4, 40, 72), whole[40:])
    assert torch.equal(inputs(2, 20, 72), whole[20:])
    assert not torch.equal(inputs(4, 0, 24), whole[24:48])


@pytest.mark.parametrize("choice", ["first", "random", "all"])
def test_a_member_is_trained_with_the_caption_of_its_epoch(choice: str) -> None:
    """Whatever batch it is in."""
    captions = [["a", "b", "c"], ["d"], ["e", "f"]]
    one = Members(tiny_recipe(captions=choice, seed=3), [task("s", 3)], Unconditional(), "worker", 1)
    one._labels = [0, 1, 2]
    one._ids, one._captions = ["s/0", "s/1", "s/2"], captions
    expected = [
        [["a", "d", "e"], ["a", "d", "e"], ["a", "d", "e"]],
        [["a", "d", "e"], ["b", "d", "f"], ["c", "d", "e"]],
    ][choice == "all"]
    if choice == "random":
        expected = [
            [
                some[keyed_generator(3, f"s/{n}", f"caption {epoch}").integers(len(some))]
                for n, some in enumerate(captions)
            ]
            for epoch in range(3)
        ]
        assert len({tuple(some) for some in expected}) > 1
    for size in (1, 3, 9):
        batches = one.batches(lambda numbers, *_: numbers[:, None, None, None].float(), "denoiser", size, 0, CPU)
        some = [*islice(batches, 9 // size)]
        found = [pair for batch in some for pair in zip(batch.labels, batch.captions, strict=True)]
        # The label is the sample's number.
        for epoch, texts in enumerate(expected):
            assert sorted(found[3 * epoch : 3 * epoch + 3]) == [*enumerate(texts)]


def test_images_are_decoded_by_as_many_threads_as_the_worker_has(
    tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    decode = members.decode_block
    monkeypatch.setattr(members, "decode_block", lambda *given: found.append(given[-1]) or decode(*given))
    tasks = member_shards(open_shards(str(tiny_shards)))
    one = Members(tiny_recipe(), part_of(tasks, 0, 1), Unconditional(), "worker", threads=3)
    assert sum(map(len, one.read())) == one.count
    assert set(found) == {3}
