"""Attacks, made from their names and options."""

from dataclasses import asdict
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from ldm_scale.attacks.base import Attack
from ldm_scale.attacks.installed import known_attacks
from ldm_scale.errors import UsageError, unknown_name


def make_attack(name: str, options: dict[str, Any]) -> Attack:
    """The attack of that name with these options, its paper's defaults for the rest.

    Raises UsageError for an unknown name (with a did-you-mean) or an option or value it does not take.
    """
    known = known_attacks()
    if name not in known:
        raise unknown_name("attack", name, known)
    kind = with_config(ConfigDict(extra="forbid"))(known[name].load())
    try:
        attack: Attack = TypeAdapter(kind).validate_python(options)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in ("attacks", name, *first["loc"]))
        raise UsageError(f"{key}: {first['msg'].removeprefix('Value error, ')}") from None
    return attack


def resolve_options(attack: Attack) -> dict[str, Any]:
    """All options of an attack, defaults included, as they go into run.json."""
    return asdict(attack)  # type: ignore[call-overload]
