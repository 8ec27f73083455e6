"""The device to compute on, from what is asked for and the GPUs there are."""

from typing import Literal

from ldm_scale.config.base import Device
from ldm_scale.errors import UsageError


def choose_device(asked: Device, gpus: int | float, *, grows: bool = False) -> Literal["cpu", "cuda"]:
    """The device that is asked for; auto is cuda if there are GPUs, or some may come.

    gpus: how many the cluster has now. grows: whether it may get more; Ray does not say what its autoscaler can add.

    Raises:
        UsageError: cuda is asked for, there is no GPU, and none may come.

    >>> choose_device("auto", 0), choose_device("auto", 0, grows=True), choose_device("auto", 2)
    ('cpu', 'cuda', 'cuda')
    """
    if asked == "auto":
        return "cuda" if gpus or grows else "cpu"
    if asked == "cuda" and not (gpus or grows):
        raise UsageError("device cuda: this Ray cluster has no GPU; use device cpu, or if it grows, audit --gpus")
    return asked
