"""Arithmetic of targets that is counted once in a process: counting traces their decoders, which takes seconds."""

from collections.abc import Callable
from typing import Any

import pytest

from ldm_scale.costs.flops import Arithmetic, measure_target
from ldm_scale.targets.base import ConditionTensors, Target

COUNTED: dict[Any, Arithmetic] = {}


def count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test has counted of a target of such shapes, another need not count again."""

    def counted(target: Target, condition: Callable[[], ConditionTensors]) -> Arithmetic:
        shapes = (type(target), target.latent_shape, *(weight.shape for weight in target.weights()))
        if shapes not in COUNTED:
            COUNTED[shapes] = measure_target(target, condition)
        return COUNTED[shapes]

    monkeypatch.setattr("ldm_scale.costs.dry_run.measure_target", counted)
