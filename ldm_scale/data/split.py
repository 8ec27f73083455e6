"""Who is a member: random halves, sides by how keys begin, or a split file of keys or numbers."""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ldm_scale.errors import MISSHAPEN, UsageError, one_line, shaped
from ldm_scale.files.storage import MOST, Location
from ldm_scale.randomness import keyed_digest
from ldm_scale.schema import sample_id

MEMBERS = "members"
HELDOUT = "heldout"
INDEX_ARRAYS = ("mia_train_idxs", "mia_eval_idxs")
# The most bytes of such an array: its header, and each of its numbers.
HEADER, NUMBER = 10_240, 8
# What a zip that is damaged, encrypted or packed in an unknown way raises.
BAD_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)


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

    Raises:
        UsageError: The file is missing, malformed, without members, or names a key twice. Without held-out keys it is
            a list of suspects, which an audit can set beside a reference model.
    """
    location.expect("split file", folder=False)
    with shaped(f'split file {location} must be JSON of the form {{"members": [key, ...], "heldout": [key, ...]}}'):
        content = json.loads(location.read_text())
        sides = content[MEMBERS], content[HELDOUT]
        if not all(isinstance(side, list) for side in sides):
            raise TypeError
        split = Split(*(tuple(map(str, side)) for side in sides))
    if not split.members:
        raise UsageError(f"split file {location} needs keys of members, and has none")
    _check_distinct(split, location)
    return split


def read_index_split(location: Location, keys: Sequence[str]) -> Split:
    """The papers' split files: .npz with the arrays `mia_train_idxs` and `mia_eval_idxs`, which number `keys` from 0.

    Raises:
        UsageError: The file is missing, malformed, one-sided, or names an image twice or outside `keys`.
    """
    location.expect("split file", folder=False)
    data = location.read_bytes(MOST)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            sides = [_read_numbers(archive, f"{name}.npy", len(keys)) for name in INDEX_ARRAYS]
        if not all(side.ndim == 1 and side.dtype.kind in "iu" for side in sides):
            raise TypeError
    except (OSError, MemoryError, *MISSHAPEN, *BAD_ZIP) as error:
        raise UsageError(
            f"split file {location} must be .npz with lists of integers {' and '.join(INDEX_ARRAYS)}: {one_line(error)}"
        ) from None
    outside = [int(index) for side in sides for index in side if not 0 <= index < len(keys)]
    if outside:
        raise UsageError(f"split file {location} names image {outside[0]}; the source has {len(keys)}, numbered from 0")
    split = Split(*(tuple(keys[index] for index in np.sort(side)) for side in sides))
    if not split.members or not split.heldout:
        raise UsageError(f"split file {location} needs members and held-out images; one of the two lists is empty")
    _check_distinct(split, location)
    return split


def _read_numbers(archive: zipfile.ZipFile, name: str, count: int) -> np.ndarray:
    """An array of at most so many numbers; raises ValueError if it has more bytes: 1 MB of zip may hold 1 GB."""
    entry = archive.getinfo(name)
    if entry.file_size > HEADER + NUMBER * count:
        raise ValueError(f"{name} has {entry.file_size} bytes, more than the numbers of {count} images")
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_distinct(split: Split, location: Location) -> None:
    if len(split.membership()) < len(split.members) + len(split.heldout):
        raise UsageError(f"split file {location} names a key twice")


def check_keys(split: Split, known: set[str], origin: str) -> None:
    """Raise UsageError if the split names a key that is not among the known ones."""
    absent = [key for key in (*split.members, *split.heldout) if key not in known]
    if absent:
        raise UsageError(f"the split names {len(absent)} keys absent from {origin}, the first is {absent[0]!r}")


def random_halves(keys: Sequence[str], seed: int) -> Split:
    """Members and held-out, half each, drawn with a seed; the order of `keys` does not matter."""
    ordered = np.array(sorted(keys), dtype=object)
    np.random.default_rng(seed).shuffle(ordered)
    half = len(ordered) // 2
    return Split(tuple(sorted(ordered[:half])), tuple(sorted(ordered[half:])))


def split_by_prefix(keys: Sequence[str], members: tuple[str, ...], heldout: tuple[str, ...]) -> Split:
    """Held-out are the keys that begin with one of `heldout`; members those with one of `members`, or all others.

    Raises:
        UsageError: A side is empty or a key begins with one of both.
    """
    theirs = tuple(sorted(key for key in keys if key.startswith(heldout)))
    known = set(theirs)
    ours = tuple(sorted(key for key in keys if (key.startswith(members) if members else key not in known)))
    if both := next((key for key in ours if key in known), None):
        raise UsageError(f"the key {both!r} begins as members and as held-out do")
    for side, found, prefixes in ((MEMBERS, ours, members), (HELDOUT, theirs, heldout)):
        if not found:
            raise UsageError(f"{side}: no key begins with {' or '.join(prefixes) or 'anything else'}")
    return Split(ours, theirs)


def draw(keys: Sequence[str], count: int, seed: int) -> tuple[str, ...]:
    """So many keys at random, or all if there are no more, sorted; the order of `keys` does not matter."""
    if len(keys) <= count:
        return tuple(sorted(keys))
    return tuple(sorted(np.random.default_rng(seed).choice(np.array(sorted(keys), object), count, replace=False)))


def keyed_order(seed: int, name: str) -> bytes:
    """By which shards, and samples, are sorted before the first ones are taken for a quick look."""
    return keyed_digest(seed, name, "limit")


def first_of_each_side(membership: dict[str, dict[str, bool]], count: int, seed: int) -> dict[str, dict[str, bool]]:
    """The first `count` members and held-out samples, by a keyed order of all that there are.

    So the samples of a smaller count are among those of a larger one, wherever they lie.

    Args:
        membership: True for members, by shard stem and key.
        count: of each side; all of one that has fewer.
        seed: of the order.
    """
    places = [(stem, key) for stem, keys in membership.items() for key in keys]
    places.sort(key=lambda at: keyed_order(seed, sample_id(*at)))
    chosen: dict[str, dict[str, bool]] = {}
    for side in (True, False):
        for stem, key in islice((at for at in places if membership[at[0]][at[1]] is side), count):
            chosen.setdefault(stem, {})[key] = side
    return chosen
