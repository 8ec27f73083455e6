"""The versions that `make` and the image install."""

import re
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]
CONSTRAINTS = REPOSITORY / ".ci" / "constraints.txt"
LOCK = REPOSITORY / "clusters" / "requirements.lock"


class Pin(NamedTuple):
    version: str
    hashes: list[str]


def locked() -> dict[str, Pin]:
    """The pin of each package, by its canonical name.

    Raises ValueError where a line is anything but NAME==VERSION with SHA-256 hashes, once comments are left out.
    """
    text = re.sub(r"^\s*#.*\n", "", LOCK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    pins = {}
    for line in text.replace("\\\n", "").splitlines():
        if not line.strip():
            continue
        entry = re.fullmatch(r"([\w.-]+)==([\w.!+-]+)((?: +--hash=sha256:[0-9a-f]{64})+) *", line)
        if entry is None:
            raise ValueError(f"{LOCK.name}: {line[:100]}")
        pins[canonicalize_name(entry[1])] = Pin(entry[2], re.findall(r"sha256:(\w+)", entry[3]))
    return pins


def constrained(python: str) -> dict[str, str]:
    """The version that `make` installs of each package, by its canonical name, on Linux with Python `python`."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.lstrip().startswith("#")]
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in pins
        if pin.marker is None or pin.marker.evaluate(environment)
    }
