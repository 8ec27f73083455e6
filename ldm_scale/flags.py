"""Command-line flags made from a configuration tree: the same names as in YAML and Python, with dots for nesting."""

import argparse
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ldm_scale.attacks.installed import find_attack, known_attacks, load_attack
from ldm_scale.config.audit import AuditConfig, name_attacks
from ldm_scale.config.base import Config
from ldm_scale.config.values import ATTACK, Metavar, merge, spell, spell_flag
from ldm_scale.errors import MISSHAPEN, UsageError, one_line, unknown_name

# Defaults of flags from the environment, so that a bare `ray job submit` works on a configured cluster.
ENVIRONMENT = {"shards": "LDM_SCALE_SHARDS", "target": "LDM_SCALE_TARGET", "out": "LDM_SCALE_OUT"}
# Shorter names of options that are often given.
ALIASES = {"compute.gpus": ["--gpus"], "numbers": ["--json"]}
# The folder, local or on S3, below which the jobs of the paper's data sets find and put everything.
ROOT = "LDM_SCALE_ROOT"
# What help writes for a value of these types; any other is a TEXT.
WORDS = {int: "INT", float: "FLOAT"}
# The completion of a path, as shtab calls it.
FILES = "file"


class _Loader(yaml.SafeLoader):
    """A safe loader to which dates are text, and what has a colon: 10:50:10 is a range, no number in base 60."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        tag = super().resolve(kind, value, implicit)
        plain = kind is yaml.ScalarNode and implicit[0]
        return self.DEFAULT_SCALAR_TAG if plain and (":" in value or tag.endswith(":timestamp")) else tag


def load_yaml(path: str) -> dict[str, Any]:
    """The nested values of a YAML file (safe load).

    Raises UsageError if the file is missing or holds no mapping.
    """
    from ldm_scale.files.storage import Location  # S3's client: --help needs none

    try:
        values = _Loader(Location.of(path).read_text()).get_single_data()
    except (OSError, yaml.YAMLError, *MISSHAPEN) as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        place = f"line {mark.line + 1}, column {mark.column + 1}: {vars(error)['problem']}, " if mark else ""
        raise UsageError(f"configuration {path}: {place}{one_line(error)}") from None
    if not isinstance(values, dict):
        raise UsageError(f"configuration {path} must be a mapping of options")
    return values


class Offered(tuple[str, ...]):
    """Choices for help and completion alone: whether a value is one of them is for the configuration to say."""

    __slots__ = ()

    def __contains__(self, value: object) -> bool:
        return True


def _takes(annotation: Any, metadata: Sequence[Any] = ()) -> Iterator[str | Metavar]:
    """The choices that an option of this type has, and words for what else it takes."""
    words = [item for item in metadata if isinstance(item, Metavar)]
    if words and words[-1] == ATTACK:
        yield from known_attacks()
    elif words:
        yield from words[-1].choices
        yield words[-1]
    elif get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) is Annotated:
        yield from _takes(annotation.__origin__, annotation.__metadata__)
    elif get_origin(annotation) in (Union, UnionType):
        for one in get_args(annotation):
            yield from _takes(one)
    elif annotation is bool:
        yield from ("true", "false")
    elif annotation is not NoneType:
        yield Metavar(WORDS.get(annotation, "TEXT"))


def _add_option(group: Any, names: Sequence[str], field: FieldInfo, default: Any, **how: Any) -> None:
    """Add an option whose help says what it is, what it takes, and its default."""
    taken = [*_takes(field.annotation, field.metadata)]
    choices = Offered(item for item in taken if isinstance(item, str))
    words = [item.word for item in taken if isinstance(item, Metavar)]
    metavar = "{" + ",".join((*choices, *words)) + "}" if choices else words[0]
    shown = "" if default in (None, (), PydanticUndefined) else f" [{spell(default)}]"
    text = f"{field.description or ''}{shown}".strip().replace("%", "%%")
    # A switch needs no value, but takes one: a file may have set it.
    switch = {"nargs": "?", "const": "true"} if field.annotation is bool else {}
    how = {"metavar": metavar, "choices": choices or None, "help": text} | switch | how
    option = group.add_argument(*names, **how)
    if "PATH" in words:
        option.complete = FILES


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
            group = parser.add_argument_group(prefix + name, annotation.__doc__)
            add_flags(group, annotation, (), f"{prefix}{name}.", recipe.get(name, {}))
        elif name in positional:
            _add_option(parser, [name], field, default, metavar=name.upper())
        else:
            names = [spell_flag(prefix + name), *ALIASES.get(prefix + name, [])]
            _add_option(parser, names, field, default, dest=prefix + name)


def add_attack_flags(parser: argparse.ArgumentParser, recipe: Any) -> None:
    """Add one flag for each option of each installed attack, which this loads: ours load torch.

    The help names each flag's default: the recipe's, or else the attack's own.
    """
    chosen = name_attacks(recipe)
    for name, point in known_attacks().items():
        attack = load_attack(point)
        hints = get_type_hints(attack, include_extras=True)
        group = parser.add_argument_group(f"attacks.{name}", (attack.__doc__ or "").partition("\n")[0])
        for field in dataclasses.fields(attack):
            key = f"attacks.{name}.{field.name}"
            info = FieldInfo.from_annotated_attribute(hints[field.name], field)
            default = (chosen.get(name) or {}).get(field.name, info.default)
            _add_option(group, [spell_flag(key)], info, default, dest=key)


def names_attack_options(words: Sequence[str]) -> bool:
    """Whether a command line asks for the options of attacks: by one of them, or by asking for help."""
    return any(word in ("-h", "--help") or word.startswith("--attacks.") for word in words)


def at_root(recipe: dict[str, Any], dataset: str) -> dict[str, Any]:
    """The recipe of a data set's job: shards, target and run below LDM_SCALE_ROOT, or else none, none and runs/."""
    root = os.environ.get(ROOT, "").rstrip("/")
    if not root:
        return {"shards": None, "target": None, "out": f"runs/{dataset}", **recipe}
    places = {"shards": "shards", "target": "targets", "out": "runs"}
    return {**{key: f"{root}/{folder}/{dataset}" for key, folder in places.items()}, **recipe}


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
    if not isinstance(chosen, dict):
        return chosen
    for name in chosen:
        # Their options are checked when they are loaded, and torch with them.
        find_attack(name)
    if stray := next((name for name in options if name not in chosen), None):
        raise UsageError(f"--attacks.{stray}: that attack is not run; add it to --attacks")
    return merge(chosen, options)


def collect(
    arguments: argparse.Namespace, kind: type[Config], recipe: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """The nested values of a command: recipe, then --config file, then environment, then flags, the last one wins.

    Raises UsageError for an unusable --config file or a name that no option has.
    """
    given = {key: value for key, value in vars(arguments).items() if value is not None}
    values = merge(recipe, load_yaml(given["config"]) if "config" in given else {})
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
