"""Who is a member: random halves, near-duplicates kept to one side, or a split file of keys."""

import hashlib
import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import NearestNeighbors

from ldm_scale.errors import UsageError
from ldm_scale.storage import Location

MEMBERS = "members"
HELDOUT = "heldout"


@dataclass(frozen=True)
class Split:
    """The keys of members and of held-out samples; keys in neither are not audited."""

    members: tuple[str, ...]
    heldout: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """A digest of who is where, whatever the order."""
        lines = [f"{MEMBERS}\t{key}" for key in self.members] + [f"{HELDOUT}\t{key}" for key in self.heldout]
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()

    def membership(self) -> dict[str, bool]:
        """Key to True for members, False for held-out."""
        return {**dict.fromkeys(self.members, True), **dict.fromkeys(self.heldout, False)}


def read_split(location: Location) -> Split:
    """A split file: JSON with the lists `members` and `heldout` of keys.

    Raises UsageError where the file is missing, malformed, one-sided, or names a key twice.
    """
    if not location.is_file():
        raise UsageError(f"split file {location} does not exist")
    try:
        content = json.loads(location.read_text())
        sides = content[MEMBERS], content[HELDOUT]
        if not all(isinstance(side, list) for side in sides):
            raise TypeError
        split = Split(*(tuple(map(str, side)) for side in sides))
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f'split file {location} must be JSON of the form {{"members": [key, ...], "heldout": [key, ...]}}'
        ) from None
    if not split.members or not split.heldout:
        raise UsageError(f"split file {location} needs members and held-out keys; one of the two lists is empty")
    if len(split.membership()) < len(split.members) + len(split.heldout):
        raise UsageError(f"split file {location} names a key twice")
    return split


def check_keys(split: Split, known: set[str], origin: str) -> None:
    """Raise UsageError where the split names a key that is not among the known ones."""
    absent = [key for key in (*split.members, *split.heldout) if key not in known]
    if absent:
        raise UsageError(f"the split names {len(absent)} keys absent from {origin}, the first is {absent[0]!r}")


def random_halves(keys: Sequence[str], seed: int) -> Split:
    """Members and held-out, half each, drawn with a seed; the order of `keys` does not matter."""
    ordered = np.array(sorted(keys), dtype=object)
    np.random.default_rng(seed).shuffle(ordered)
    half = len(ordered) // 2
    return Split(tuple(sorted(ordered[:half])), tuple(sorted(ordered[half:])))


def duplicate_groups(thumbnails: np.ndarray, variants: Sequence[Hashable], radius: float) -> np.ndarray:
    """Group samples that show one picture: equal `variants`, or thumbnails within `radius` of each other.

    thumbnails: float32 (n, p), intensities in [0, 1]; the distance is the root mean square over the p values.
    Groups are the connected components, so a chain of near pairs is one group. Returns a group number a sample, (n,).
    """
    n, values = thumbnails.shape
    neighbours = NearestNeighbors(radius=radius * values**0.5).fit(thumbnails)
    near = neighbours.radius_neighbors_graph(thumbnails).tocoo()
    first = {variant: index for index, variant in reversed(list(enumerate(variants)))}
    same = np.array([first[variant] for variant in variants])
    rows = np.concatenate([near.row, np.arange(n)])
    columns = np.concatenate([near.col, same])
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1])
