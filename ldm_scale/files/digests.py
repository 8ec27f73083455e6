"""Digests of values, and what changed between two of them."""

import hashlib
import json
import re
from typing import Any


def digest(content: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """Each key whose value changed, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted({*old, *new})
        return [
            line for name in names for line in differences(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
        ]
    if old == new:
        return []
    if _is_digest(old) and _is_digest(new):
        return [f"the content of {key} has changed: its SHA-256 was {old[:12]}..., is now {new[:12]}..."]
    return [f"{key} was {_short(old)}, is now {_short(new)}"]


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
