"""What every part of the configuration tree is, and how it is made from nested values."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from ldm_scale.errors import UsageError

DEMO = Path(__file__).parents[1] / "demo"
# Descriptions of addresses of shards, the same for all options.
SHARDS = "shard folder with manifest.json, or .tar files of one as a brace pattern, {000..127}.tar"
ELSEWHERE = "manifest that does not lie in the shards' folder, local or s3://; it names shards relative to that folder"
Device = Literal["auto", "cpu", "cuda"]
# Which of a sample's captions is its condition.
Captions = Literal["first", "random", "all"]


class Record(BaseModel):
    """What is kept as JSON: frozen, and without a key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Config(Record):
    """A part of the tree, in which no number is none."""

    model_config = ConfigDict(validate_default=True, allow_inf_nan=False)


T = TypeVar("T", bound=Config)


def build(kind: type[T], values: dict[str, Any]) -> T:
    """A configuration from nested values.

    Raises UsageError that names the first offending key and what is wrong with it.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        # Of an option that takes one thing or another, pydantic names the one that it tried, too.
        path = [str(part) for part in first["loc"] if not str(part).startswith("literal[")]
        key = ".".join(path)
        message = first["msg"].removeprefix("Value error, ")
        message = {"missing": "must be given"}.get(first["type"], message)
        if first["type"] == "extra_forbidden":
            message = f"no such option{_meant(kind, path)}"
        if first["type"] == "string_type" and first["input"] is None:
            message = "must be given (see --help)"
        raise UsageError(f"{key}: {message}" if key else message) from None


def _meant(kind: type[Config], path: Sequence[str]) -> str:
    """The question whether the nearest option of the same section was meant; empty if none is near."""
    *sections, name = path
    for section in sections:
        kind = cast("type[Config]", kind.model_fields[section].annotation)
    near = difflib.get_close_matches(name, kind.model_fields, n=1)
    return f"; did you mean {'.'.join((*sections, near[0]))}?" if near else ""
