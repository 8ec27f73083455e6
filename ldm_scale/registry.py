"""A mapping from names to things that answers an unknown name with the nearest known one."""

import difflib
from collections.abc import Iterable

from ldm_scale.errors import UsageError


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UsageError:
    """The error for a name that is not among the known ones, with a did-you-mean where one is near."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
    return UsageError(f"unknown {kind} {name!r}; {hint}")
