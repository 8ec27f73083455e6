"""What other packages add by entry points: names are known without loading anything."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ldm_scale.errors import UsageError, one_line

# Our own estimators of influence, and the group of others'. Whether one is installed is for an audit to say, not for a
# reader of its run.
INFLUENCES = ("exact", "hutchinson", "pooled", "off")
ESTIMATORS = "ldm_scale.estimators"


def installed(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group, by name, in the order of names; none is loaded."""
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def load_installed(point: EntryPoint) -> Any:
    """What an entry point names; raises UsageError if it cannot be loaded."""
    try:
        return point.load()
    except Exception as error:
        raise UsageError(f"entry point {point.value} of {point.group} cannot be loaded: {one_line(error)}") from None
