"""The audit's graph in this process, one thing after the other: the engine's own code on a stand-in for Ray.

Reading, decoding, actors, commits and the reducer are what they are on a cluster; what Ray does between them (blocks,
batches, tasks, actors) is done here by plain loops. For tests of what a stage does. What several processes do to each
other needs a real Ray: the fixture `local_ray`.
"""

import functools
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch

from ldm_scale.geometry.pullback import TracedDecoder
from ldm_scale.report.figures import Plot
from ldm_scale.targets.base import Target
from ldm_scale.targets.weights import Weights
from ldm_scale.terminal import say


@dataclass(frozen=True)
class Done:
    """Stands in for a reference to an object."""

    value: Any


def resolve(value: Any) -> Any:
    """What a reference stands for, also of each in a list."""
    if isinstance(value, list):
        return [resolve(item) for item in value]
    return value.value if isinstance(value, Done) else value


class Dataset:
    """Stands in for ray.data.Dataset: blocks that are made as they are asked for."""

    def __init__(self, blocks: Callable[[], Iterable[pa.Table]]) -> None:
        self._blocks = blocks

    @classmethod
    def from_items(cls, items: list[dict[str, Any]], **_: Any) -> "Dataset":
        return cls(lambda: (pa.Table.from_pylist([item]) for item in items))

    def map_batches(
        self, function: Any, *, batch_size: int, fn_constructor_args: tuple[Any, ...] = (), **_: Any
    ) -> "Dataset":
        def blocks() -> Iterator[pa.Table]:
            call = function(*fn_constructor_args) if isinstance(function, type) else function
            for batch in self.iter_batches(batch_size):
                made = call(batch)
                yield from [made] if isinstance(made, pa.Table) else made

        return Dataset(blocks)

    def iter_batches(self, batch_size: int | None = None, **_: Any) -> Iterator[pa.Table]:
        """Batches of so many rows, the last one of what is left; None: the blocks as they are."""
        held: list[pa.Table] = []
        for block in self._blocks():
            held.append(block)
            while batch_size is not None and sum(map(len, held)) >= batch_size:
                table = pa.concat_tables(held, promote_options="default")
                yield table[:batch_size]
                held = [table[batch_size:]]
            if batch_size is None and len(block):
                yield held.pop()
        if sum(map(len, held)) and batch_size is not None:
            yield pa.concat_tables(held, promote_options="default")


@functools.cache
def traced_once(decode: Callable[..., Any]) -> TracedDecoder:
    """A decoder with its traces, which take a second a shape: one for each target of this process."""
    return TracedDecoder(decode)


_loaded: dict[str, Target] = {}


def loaded_once(weights: Weights, *arguments: Any) -> Target:
    """A target for each content of its weights and way to load them; nothing ever changes one."""
    key = repr((weights.science(), arguments))
    if key not in _loaded:
        _loaded[key] = _load(weights, *arguments)
    return _loaded[key]


_load = Weights.load
# Drawing takes three seconds a report; tests/report draws.
BLANK = dict.fromkeys(("roc", "by_drop", "by_bin", "influence", "dropped", "by_timestep"), Plot(b"", "not drawn"))


def set_threads(count: int) -> None:
    """What a training worker does to its threads, here nothing."""


class Trainer:
    """Stands in for ray.train's TorchTrainer: its one worker is this process."""

    def __init__(self, worker: Callable[[Any], None], *, train_loop_config: Any, **_: Any) -> None:
        self._run = functools.partial(worker, train_loop_config)

    def fit(self) -> Any:
        import ray.train

        reported: list[ray.train.Checkpoint] = []

        def report(metrics: dict[str, Any], checkpoint: ray.train.Checkpoint, **_: Any) -> None:
            # Its folder goes away with the call.
            copy = shutil.copytree(checkpoint.path, f"{tempfile.mkdtemp()}/checkpoint")
            reported.append(ray.train.Checkpoint.from_directory(copy))

        alone = SimpleNamespace(get_world_size=lambda: 1, get_world_rank=lambda: 0, get_local_world_size=lambda: 1)
        with pytest.MonkeyPatch.context() as patch:
            # Ray Train's workers work in a folder of their own.
            patch.chdir(tempfile.mkdtemp())
            # The tests share this process's threads.
            patch.setattr(torch, "set_num_threads", lambda count: set_threads(count))
            patch.setattr(ray.train, "get_context", lambda: alone)
            patch.setattr(ray.train, "get_checkpoint", lambda: None)
            patch.setattr(ray.train, "report", report)
            patch.setattr("ldm_scale.engine.train_worker.get_device", lambda: torch.device("cpu"))
            patch.setattr("ldm_scale.engine.train_worker.prepare_model", lambda model: model)
            self._run()
        return SimpleNamespace(checkpoint=reported[-1])


@contextmanager
def relay() -> Iterator[Any]:
    """Lines as they come."""
    yield SimpleNamespace(put=say)


@contextmanager
def inline_ray() -> Iterator[None]:
    """Run what a block asks of Ray in this process; no Ray is started."""
    import ray
    import ray.data
    from ray.remote_function import RemoteFunction

    def call(function: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **_: Any) -> Done:
        return Done(function._function(*map(resolve, args), **{key: resolve(v) for key, v in (kwargs or {}).items()}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RemoteFunction, "_remote", call)
        patch.setattr(ray, "get", resolve)
        patch.setattr(ray, "put", Done)
        patch.setattr(ray, "is_initialized", lambda: True)
        patch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "memory": 8e9})
        patch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
        patch.setattr(ray.data, "from_items", Dataset.from_items)
        patch.setattr("ldm_scale.engine.audit.pool_size", lambda actor: 1)
        patch.setattr("ldm_scale.engine.train._Trainer", Trainer)
        patch.setattr("ldm_scale.engine.train.relay", relay)
        patch.setattr("ldm_scale.auditor.TracedDecoder", traced_once)
        patch.setattr(Weights, "load", loaded_once)
        patch.setattr("ldm_scale.report.page.plots_of", lambda results, maps: BLANK)
        yield
