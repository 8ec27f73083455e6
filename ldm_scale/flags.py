"""Command-line flags made from a configuration tree: the same names as in YAML and Python, with dots for nesting."""

import argparse
import dataclasses
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ldm_scale.attacks.registry import known_attacks
from ldm_scale.config.audit import AuditConfig, name_attacks
from ldm_scale.config.base import Config
from ldm_scale.config.values import merge
from ldm_scale.errors import UsageError, one_line, unknown_name

# Defaults of flags from the environment, so that a bare `ray job submit` works on a configured cluster.
ENVIRONMENT = {"shards": "LDM_SCALE_SHARDS", "target": "LDM_SCALE_TARGET", "out": "LDM_SCALE_OUT"}
# Shorter names of options that are often given.
ALIASES = {"compute.gpus": ["--gpus"], "numbers": ["--json"]}
# The folder, local or on S3, below which the jobs of the paper's data sets find and put everything.
ROOT = "LDM_SCALE_ROOT"


def load_yaml(path: str) -> dict[str, Any]:
    """The nested values of a YAML file (safe load).

    Raises UsageError if the file is missing or holds no mapping.
    """
    from ldm_scale.files.storage import Location  # S3's client: --help needs none

    try:
        values = yaml.safe_load(Location.of(path).read_text())
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"configuration {path}: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise UsageError(f"configuration {path} must be a mapping of options")
    return values


def _help(field: FieldInfo, default: Any) -> str:
    text = field.description or ""
    if default in (None, PydanticUndefined):
        return text
    match default:
        case tuple() | dict():
            shown = ",".join(map(str, default))
        case float():
            shown = f"{default:g}"
        case _:
            shown = str(default)
    return f"{text} [{shown}]".replace("%", "%%")


def add_flags(
    parser: Any,
    kind: type[Config],
    positional: tuple[str, ...] = (),
    prefix: str = "",
    recipe: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Add one flag for each leaf of the tree, sections as groups; `positional` names are given without a flag.

    The help names each flag's default: the recipe's, or else the configuration's own.
    """
    for name, field in kind.model_fields.items():
        annotation = field.annotation
        default = recipe.get(name, field.default)
        if isinstance(annotation, type) and issubclass(annotation, Config):
            title = f"{name}: {(annotation.__doc__ or '').rstrip('.')}"
            add_flags(parser.add_argument_group(title), annotation, (), f"{prefix}{name}.", recipe.get(name, {}))
        elif name in positional:
            parser.add_argument(name, metavar=name.upper(), help=_help(field, default))
        else:
            names = [f"--{prefix}{name}".replace("_", "-"), *ALIASES.get(prefix + name, [])]
            # A switch needs no value, but takes one: a file may have set it.
            switch: dict[str, Any] = {"nargs": "?", "const": "true"} if annotation is bool else {}
            parser.add_argument(*names, dest=prefix + name, metavar="X", help=_help(field, default), **switch)


def at_root(recipe: dict[str, Any], dataset: str) -> dict[str, Any]:
    """The recipe of a data set's job: shards, target and run below LDM_SCALE_ROOT, or else none, none and runs/."""
    root = os.environ.get(ROOT, "").rstrip("/")
    if not root:
        return {"shards": None, "target": None, "out": f"runs/{dataset}", **recipe}
    places = {"shards": "shards", "target": "targets", "out": "runs"}
    return {**{key: f"{root}/{folder}/{dataset}" for key, folder in places.items()}, **recipe}


def add_attack_flags(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each option of each installed attack."""
    for name, point in known_attacks().items():
        attack = point.load()
        group = parser.add_argument_group(f"attacks.{name}: {(attack.__doc__ or '').splitlines()[0].rstrip('.')}")
        for field in dataclasses.fields(attack):
            group.add_argument(
                f"--attacks.{name}.{field.name}".replace("_", "-"), dest=f"attacks.{name}.{field.name}", metavar="X"
            )


def _nest(flat: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *path, leaf = key.split(".")
        level = nested
        for part in path:
            level = level.setdefault(part, {})
        level[leaf] = value
    return nested


def _merge_attacks(chosen: Any, names: str | None, options: dict[str, Any]) -> Any:
    """The attacks of the file or recipe, or those named on the command line, with their options from there."""
    chosen = name_attacks(names if names is not None else chosen)
    if stray := next((name for name in options if name not in chosen), None):
        raise UsageError(f"--attacks.{stray}: that attack is not run; add it to --attacks")
    return merge(chosen, options)


def collect(arguments: argparse.Namespace, kind: type[Config], recipe: dict[str, Any]) -> dict[str, Any]:
    """The nested values of a command: recipe, then --config file, then environment, then flags, the last one wins.

    Raises UsageError for an unusable --config file or a name that no option has.
    """
    given = {key: value for key, value in vars(arguments).items() if value is not None}
    values = merge(recipe, load_yaml(given["config"])) if "config" in given else recipe
    if stray := next((name for name in values if name not in kind.model_fields), None):
        raise unknown_name("option", stray, kind.model_fields)
    if kind is AuditConfig:
        values = values | {key: os.environ[name] for key, name in ENVIRONMENT.items() if os.environ.get(name)}
        options = _nest({key: value for key, value in given.items() if key.startswith("attacks.")}).get("attacks", {})
        if "attacks" in given or options:
            chosen = values.get("attacks", AuditConfig.model_fields["attacks"].default)
            values = values | {"attacks": _merge_attacks(chosen, given.get("attacks"), options)}
    return merge(values, given_flags(arguments, kind))


def given_flags(arguments: argparse.Namespace, kind: type[Config]) -> dict[str, Any]:
    """The nested values of the flags alone that belong to a configuration, an audit's attacks apart."""
    # What is named there is merged with options that have flags of their own.
    known = kind.model_fields.keys() - ({"attacks"} if kind is AuditConfig else set())
    return _nest(
        {key: value for key, value in vars(arguments).items() if value is not None and key.split(".")[0] in known}
    )
