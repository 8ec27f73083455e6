"""Arithmetic of targets that is counted once in a process: counting traces their decoders, which takes seconds."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ldm_scale.costs.flops import Arithmetic, measure_target
from ldm_scale.geometry.pullback import Decoder, TracedDecoder
from ldm_scale.targets.base import ConditionTensors, Target
from ldm_scale.targets.load import load_target

COUNTED: dict[Any, Arithmetic] = {}
DECODERS: dict[str, TracedDecoder] = {}


def traced_once(decode: Any) -> TracedDecoder:
    """A target's decoder with its traces: one of the same layers, though of another target, has the same."""
    return DECODERS.setdefault(repr(decode.__self__._autoencoder._model), TracedDecoder(decode))


def trace_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test has traced of a decoder of such layers, another need not trace again."""
    monkeypatch.setattr("ldm_scale.costs.flops.TracedDecoder", traced_once)


def count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test has counted of a target of such shapes, another need not count again."""

    def counted(target: Target, condition: Callable[[], ConditionTensors], decode: Decoder) -> Arithmetic:
        shapes = (type(target), target.latent_shape, *(weight.shape for weight in target.weights()))
        if shapes not in COUNTED:
            COUNTED[shapes] = measure_target(target, condition, decode)
        return COUNTED[shapes]

    trace_once(monkeypatch)
    monkeypatch.setattr("ldm_scale.costs.dry_run.measure_target", counted)


@cache
def measured(folder: Path) -> tuple[Target, Arithmetic]:
    """An unconditional target on the device "meta", and what its parts take."""
    target = load_target(folder, "meta")
    return target, measure_target(target, lambda: None)
