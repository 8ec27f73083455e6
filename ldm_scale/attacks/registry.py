"""Attacks, made from their names and options."""

from dataclasses import asdict
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from ldm_scale.attacks.base import Attack
from ldm_scale.attacks.installed import find_attack, load_attack
from ldm_scale.errors import UsageError


def make_attack(name: str, options: dict[str, Any]) -> Attack:
    """The attack of a name.

    Args:
        name: of an entry point.
        options: values for its fields, as in the configuration; the rest are its paper's.

    Raises:
        UsageError: The name is unknown, the attack cannot be loaded, or it does not take an option or its value.

    Example:
        >>> make_attack("sima", {"timesteps": "0:30:10"})
        SimA(timesteps=(0, 10, 20), p=4.0)
    """
    kind = with_config(ConfigDict(extra="forbid"))(load_attack(find_attack(name)))
    try:
        attack: Attack = TypeAdapter(kind).validate_python(options)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in ("attacks", name, *first["loc"]))
        raise UsageError(f"{key}: {first['msg'].removeprefix('Value error, ')}") from None
    return attack


def resolve_options(attack: Attack) -> dict[str, Any]:
    """All options of an attack, defaults included, as run.json holds them.

    >>> resolve_options(make_attack("sima", {"timesteps": "0,10"}))
    {'timesteps': (0, 10), 'p': 4.0}
    """
    return asdict(attack)  # type: ignore[call-overload]
