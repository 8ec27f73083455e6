"""The launcher files as Ray reads them, and what a policy of AWS allows."""

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTERS = Path(__file__).parents[2] / "clusters"


def launcher(name: str) -> dict[str, Any]:
    """A launcher file with Ray's defaults, which Ray has found valid."""
    config = prepare_config(yaml.safe_load((CLUSTERS / name).read_text()))
    validate_config(config)
    return config


def policy(name: str) -> list[dict[str, Any]]:
    """The statements of a policy."""
    statements: list[dict[str, Any]] = json.loads((CLUSTERS / name).read_text())["Statement"]
    return statements


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def actions(statements: list[dict[str, Any]], service: str) -> set[str]:
    """The actions of a service that a policy allows somewhere."""
    named = {action for statement in statements for action in as_list(statement["Action"])}
    return {action for action in named if action.startswith(f"{service}:")}


def allows(statements: list[dict[str, Any]], action: str, resource: str, **context: Any) -> bool:
    """What IAM answers; context: the request's values of condition keys, with _ for what a name may not hold.

    All statements must allow; a condition on a key that the request does not have is not met.
    """
    assert all(statement["Effect"] == "Allow" for statement in statements)
    return any(
        action in as_list(statement["Action"])
        and any(fnmatchcase(resource, pattern) for pattern in as_list(statement["Resource"]))
        and all(
            _is_met(test, key, as_list(wanted), context)
            for test, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
        for statement in statements
    )


def _is_met(test: str, key: str, wanted: list[str], context: dict[str, Any]) -> bool:
    given = context.get(key.replace(":", "_").replace("/", "_").replace("-", "_"))
    if test == "StringEquals":
        return given in wanted
    if test == "Null":
        return (given is None) == (wanted == ["true"])
    if test in {"StringLike", "ArnLike"}:
        return given is not None and any(fnmatchcase(given, pattern) for pattern in wanted)
    assert test == "ForAllValues:StringLike", test
    return all(any(fnmatchcase(value, pattern) for pattern in wanted) for value in given or ())


def environment(config: dict[str, Any]) -> dict[str, str]:
    """The variables of the containers."""
    options = [option.removeprefix("--env=") for option in config["docker"]["run_options"] if "--env=" in option]
    return dict(option.split("=", 1) for option in options)
