"""Values as people write them: sizes such as 512MiB, integers such as 0:200:10, spans such as 0..64, and so on."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(value: Any) -> Any:
    """Bytes from a number or a text such as "512 MiB"."""
    match = re.fullmatch(r"([\d.]+)\s*([A-Za-z]*)", str(value).strip())
    if not match or match[2].upper() not in UNITS:
        raise ValueError(f"{value!r} is not a size such as 512MiB")
    return int(float(match[1]) * UNITS[match[2].upper()])


def parse_integers(value: Any) -> Any:
    """Integers from a list, from "0,10,20", or from a range "start:stop:step" (stop excluded)."""
    if not isinstance(value, str):
        return value
    if ":" in value:
        bounds = [int(part) for part in value.split(":")]
        if len(bounds) > 3:
            raise ValueError(f"{value!r} is not a range start:stop:step")
        return tuple(range(*bounds))
    return tuple(int(part) for part in value.split(","))


def parse_span(value: Any) -> Any:
    """At least and at most, from a pair, from "2..8", or from the most alone: 8 is 0..8."""
    if isinstance(value, list | tuple):
        return value
    match = re.fullmatch(r"(?:(\d+)\.\.)?(\d+)", str(value).strip())
    if not match:
        raise ValueError(f"{value!r} is not a span such as 2..8, or a number")
    return int(match[1] or 0), int(match[2])


def check_span(span: tuple[int, int]) -> tuple[int, int]:
    """The span, where it runs upwards and does not end at nothing."""
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


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Nested values over others, option by option."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = merge(base[key], value) if both else value
    return merged


Bytes = Annotated[int, BeforeValidator(parse_bytes)]
Integers = Annotated[tuple[int, ...], BeforeValidator(parse_integers)]
Span = Annotated[tuple[int, int], BeforeValidator(parse_span), AfterValidator(check_span)]
Fractions = Annotated[tuple[float, ...], BeforeValidator(parse_fractions)]
Names = Annotated[tuple[str, ...], BeforeValidator(parse_names)]
