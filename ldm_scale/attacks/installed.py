"""The names of the attacks that are installed; none of them is loaded, nor torch with it."""

from importlib.metadata import EntryPoint, entry_points

GROUP = "ldm_scale.attacks"


def known_attacks() -> dict[str, EntryPoint]:
    """The installed attacks' entry points by name; third parties add theirs to the group `ldm_scale.attacks`."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}
