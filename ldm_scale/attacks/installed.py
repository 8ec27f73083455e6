"""The names of the attacks that are installed; none of them is loaded, nor torch with it."""

from dataclasses import fields, is_dataclass
from importlib.metadata import EntryPoint
from typing import Any

from ldm_scale.config.installed import ATTACKS, find_installed, installed, load_installed

# What an attack has, as attributes or as the fields of its dataclass.
OFFERED = {"timesteps", "evaluated", "p", "vectors"}


def known_attacks() -> dict[str, EntryPoint]:
    """The installed attacks' entry points by name; third parties add theirs to the group `ldm_scale.attacks`."""
    return installed(ATTACKS)


def find_attack(name: object) -> EntryPoint:
    """The entry point of a name; raises UsageError if no installed attack has it."""
    point = find_installed(ATTACKS, name, "attack")
    assert point is not None
    return point


def load_attack(point: EntryPoint) -> Any:
    """The class of an attack; raises UsageError if it cannot be loaded or is none."""
    return load_installed(point, _is_attack, f"dataclass with {', '.join(sorted(OFFERED))}")


def _is_attack(kind: Any) -> bool:
    return is_dataclass(kind) and not OFFERED - {field.name for field in fields(kind)} - {*dir(kind)}
