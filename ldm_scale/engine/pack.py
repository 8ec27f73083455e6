"""Packing on Ray: thumbnails and shards are tasks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TypeVar

from ldm_scale.config.data import PackConfig
from ldm_scale.data.manifest import Manifest
from ldm_scale.data.pack import pack
from ldm_scale.engine.parallel import in_parallel
from ldm_scale.engine.session import session

T = TypeVar("T")
R = TypeVar("R")


def run_pack(config: PackConfig) -> Manifest:
    """`ldm_scale.data.pack.pack` with its work spread over a cluster; Ray is started when there is work for it."""
    with ExitStack() as stack:

        def run(function: Callable[[T], R], tasks: Sequence[T], what: str) -> Iterator[R]:
            if tasks:
                stack.enter_context(session())
            return in_parallel(function, tasks, what)

        return pack(config, run)
