"""Values as people write them: sizes such as 512MiB, integers such as 0:200:10, spans such as 0..64, and so on."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field

# A model has fewer timesteps by far.
MOST_INTEGERS = 100_000


@dataclass(frozen=True)
class Metavar:
    """The word that --help writes for a value, such as SIZE, and choices beside it. Pydantic ignores it."""

    word: str
    choices: tuple[str, ...] = ()


def check_size(value: Any) -> Any:
    """The value, if all of it is a size: ByteSize alone would read "1,5GiB" as one byte."""
    if not re.fullmatch(r"\s*\d*\.?\d+\s*[A-Za-z]*\s*", str(value)):
        raise ValueError(f"{value!r} is not a size such as 512MiB")
    return value


def parse_integers(value: Any) -> Any:
    """Integers from a list, from "0,10,20", or from a range "start:stop:step" (stop excluded)."""
    if not isinstance(value, str):
        return value
    try:
        # A range of more than three bounds is a TypeError.
        numbers = range(*map(int, value.split(":"))) if ":" in value else [*map(int, value.split(","))]
        if numbers[MOST_INTEGERS:]:
            raise ValueError
    except (ValueError, TypeError):
        raise ValueError(
            f"{value!r} is no list such as 0,10,20, nor a range start:stop:step such as 0:300:10, of at most "
            f"{MOST_INTEGERS:,} numbers"
        ) from None
    return tuple(numbers)


def spell_integers(numbers: tuple[int, ...]) -> str:
    """Integers as they are given: a range if there are more than three in equal steps upwards.

    >>> spell_integers((0, 10, 20, 30)), spell_integers((64, 128, 128))
    ('0:40:10', '64,128,128')
    """
    if len(numbers) > 3 and (step := numbers[1] - numbers[0]) > 0:
        steps = range(numbers[0], numbers[-1] + step, step)
        if numbers == tuple(steps):
            return f"{steps.start}:{steps.stop}:{step}"
    return ",".join(map(str, numbers))


def spell(value: Any) -> str:
    """A value of an option as it is given on the command line.

    >>> spell(True), spell(0.5), spell((0, 10, 20, 30)), spell(("sima", "pia"))
    ('true', '0.5', '0:40:10', 'sima,pia')
    >>> spell(1 / 3)
    '0.3333333333333333'
    """
    match value:
        case bool():
            return str(value).lower()
        case float():
            short = f"{value:g}"
            return short if float(short) == value else repr(value)
        case (int(), *_):
            return spell_integers(tuple(value))
        case tuple() | list() | dict():
            return ",".join(map(spell, value))
    return str(value)


def spell_flag(key: str) -> str:
    """The flag of an option.

    >>> spell_flag("compute.batch_size")
    '--compute.batch-size'
    """
    return f"--{key}".replace("_", "-")


def parse_span(value: Any) -> Any:
    """At least and at most, from a pair, from "2..8", or from the most alone: 8 is 0..8."""
    if isinstance(value, list | tuple):
        return value
    match = re.fullmatch(r"(?:(\d+)\.\.)?(\d+)", str(value).strip())
    if not match:
        raise ValueError(f"{value!r} is not a span such as 2..8, or a number")
    return int(match[1] or 0), int(match[2])


def check_span(span: tuple[int, int]) -> tuple[int, int]:
    """The span, if it runs upwards and does not end at nothing."""
    least, most = span
    if not 0 <= least <= most or most == 0:
        raise ValueError(f"{least}..{most} does not run from at least to at most")
    return span


def parse_fractions(value: Any) -> Any:
    """Fractions from a list or from "0.95,0.9"."""
    return tuple(float(part) for part in value.split(",")) if isinstance(value, str) else value


def parse_names(value: Any) -> Any:
    """Names from a list or from "sima,pia"; an empty text is none."""
    if not isinstance(value, str):
        return value
    return tuple(name.strip() for name in value.split(",") if name.strip())


def merge(base: Mapping[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Nested values over others, option by option."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = merge(base[key], value) if both else value
    return merged


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by the names of their options.

    >>> flatten({"seed": 0, "masks": {"bins": 20}})
    {'seed': 0, 'masks.bins': 20}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


Bytes = Annotated[ByteSize, BeforeValidator(check_size), Metavar("SIZE")]
Integers = Annotated[tuple[int, ...], BeforeValidator(parse_integers), Metavar("INTS")]
# Of a network's layers, one a resolution.
Widths = Annotated[
    tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1), BeforeValidator(parse_integers), Metavar("INTS")
]
Span = Annotated[tuple[int, int], BeforeValidator(parse_span), AfterValidator(check_span), Metavar("SPAN")]
Fractions = Annotated[tuple[float, ...], BeforeValidator(parse_fractions), Metavar("FLOATS")]
Names = Annotated[tuple[str, ...], BeforeValidator(parse_names), Metavar("NAMES")]
# What lies somewhere: a local path, s3://, or, of a model, the hub.
Address = Annotated[str, Metavar("PATH")]
# Attacks by name; --help lists those that are installed.
ATTACK = Metavar("ATTACK")
AttackName = Annotated[str, ATTACK]
AttackNames = Annotated[Names, ATTACK]
