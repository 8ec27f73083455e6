"""The device: what is asked for, if the cluster has it or may get it."""

import pytest

from ldm_scale.config.base import Device
from ldm_scale.device.choose import choose_device
from ldm_scale.errors import UsageError


@pytest.mark.parametrize(
    ("asked", "gpus", "grows", "expected"),
    [
        ("auto", 0, False, "cpu"),
        ("auto", 0, True, "cuda"),
        ("auto", 0.5, False, "cuda"),
        ("cpu", 8, True, "cpu"),
        ("cuda", 1, False, "cuda"),
        ("cuda", 0, True, "cuda"),
    ],
)
def test_gpus_that_are_there_or_may_come_are_taken(asked: Device, gpus: float, grows: bool, expected: str) -> None:
    assert choose_device(asked, gpus, grows=grows) == expected


def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^device cuda: .* no GPU"):
        choose_device("cuda", 0)
