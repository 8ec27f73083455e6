"""What the numbers of a benchmark were measured on, and with."""

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

PACKAGES = ("torch", "ray", "diffusers", "numpy", "pyarrow", "ldm_scale")
CPUINFO = Path("/proc/cpuinfo")


def describe_machine() -> dict[str, object]:
    """CPU model, cores that this process may use, threads of torch, memory in bytes, system, and names of GPUs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory": psutil.virtual_memory().total,
        "system": platform.platform(),
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
    }


def _cpu() -> str:
    """As Linux names it, or else as Python does."""
    text = CPUINFO.read_text() if CPUINFO.is_file() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe_versions() -> dict[str, str]:
    """Of Python and the packages that matter to speed, those that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
