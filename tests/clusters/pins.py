"""The versions that the image's lock file pins."""

import re
from pathlib import Path
from typing import NamedTuple

from packaging.utils import canonicalize_name

LOCK = Path(__file__).parents[2] / "clusters" / "requirements.lock"


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
