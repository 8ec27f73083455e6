"""The names of the attacks that are installed; none of them is loaded, nor torch with it."""

from importlib.metadata import EntryPoint

from ldm_scale.config.installed import installed
from ldm_scale.errors import unknown_name

GROUP = "ldm_scale.attacks"


def known_attacks() -> dict[str, EntryPoint]:
    """The installed attacks' entry points by name; third parties add theirs to the group `ldm_scale.attacks`."""
    return installed(GROUP)


def find_attack(name: object) -> EntryPoint:
    """The entry point of a name; raises UsageError if no installed attack has it."""
    known = known_attacks()
    if name not in known:
        raise unknown_name("attack", name, known)
    return known[str(name)]
