"""What other packages add by entry points: names are known without loading anything."""

from collections.abc import Callable, Collection, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ldm_scale.errors import UsageError, one_line, unknown_name

ATTACKS = "ldm_scale.attacks"
# Our own estimators of influence, and the group of others'. Whether one is installed is for an audit to say, not for a
# reader of its run.
INFLUENCES = ("exact", "hutchinson", "pooled", "off")
ESTIMATORS = "ldm_scale.estimators"


def package(point: EntryPoint) -> str:
    """The package of an entry point, with its version."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "no package"


def spell(point: EntryPoint) -> str:
    """An entry point in messages: group, name and package."""
    return f"entry point {point.name} of {point.group} ({package(point)})"


def installed(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group, by name, in the order of names; none is loaded."""
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def find_installed(group: str, name: object, kind: str, ours: Collection[str] = ()) -> EntryPoint | None:
    """The entry point of a name; None if it is one of ours.

    Raises:
        UsageError: There is none, or it is not the only one of this name.
    """
    found = [point for point in entry_points(group=group) if point.name == name]
    if not found and name not in ours:
        raise unknown_name(kind, name, (*ours, *installed(group)))
    if len(found) + (name in ours) > 1:
        others = ", ".join(map(package, found[1:])) or "ldm_scale"
        raise UsageError(f"{spell(found[0])} has the name of one of {others}; uninstall one of the packages")
    return found[0] if found else None


def packages(chosen: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Of groups and names those that other packages add, with package and version: their numbers may depend on it."""
    points = (installed(group).get(name) for group, name in chosen)
    return {
        f"{point.group.partition('.')[2]}.{point.name}": package(point)
        for point in points
        if point and point.module.partition(".")[0] != "ldm_scale"
    }


def whose(group: str, name: str) -> str:
    """Words for the package that adds a name to a group; none if it is ours."""
    return "".join(f" of {added}" for added in packages([(group, name)]).values())


def load_installed(point: EntryPoint, fits: Callable[[Any], bool], what: str) -> Any:
    """What an entry point names; raises UsageError if it cannot be loaded, or does not fit and so is no `what`."""
    try:
        found = point.load()
    except Exception as error:
        raise UsageError(f"{spell(point)} cannot be loaded from {point.value}: {one_line(error)}") from None
    if not fits(found):
        raise UsageError(f"{spell(point)}: {point.value} is no {what}")
    return found
