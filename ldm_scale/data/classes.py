"""Class numbers: an integer stays what it is, ImageNet's ids have their official index, other names are sorted."""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files

from ldm_scale.errors import UsageError

# As spreadsheets and pandas write integers, too. Shards hold classes of 64 bits.
_INTEGER = re.compile(r"(-?\d{1,18})(\.0)?")
LARGEST = 10**18 - 1
# Higher numbers are no classes but other ids, and have no table.
MOST = 100_000
# Some of ImageNet's classes in words, as targets name them (`tench, Tinca tinca`), by their official index.
_IMAGENET_WORDS = {0: "tench", 1: "goldfish", 999: "toilet tissue"}


@functools.cache
def imagenet_wnids() -> tuple[str, ...]:
    """The WordNet ids of ImageNet-1K's classes, in the order of their index."""
    return tuple(files("ldm_scale").joinpath("data/imagenet_wnids.txt").read_text().split())


def table_of(names: Iterable[str]) -> tuple[str, ...]:
    """The names of classes in the order of their numbers: the whole official table, or sorted as torchvision does."""
    known = set(names)
    return imagenet_wnids() if known and known.issubset(imagenet_wnids()) else tuple(sorted(known))


def as_integer(label: str | int) -> int | None:
    """The number that a label is, or None if it is a name."""
    if isinstance(label, int):
        return label
    match = _INTEGER.fullmatch(label)
    return int(match[1]) if match else None


Places = Mapping[str | int, object]
Numbers = dict[str | int, int]


def _check_numbers(numbers: Mapping[str | int, int | None], places: Places) -> Numbers:
    """The numbers, if every label has one of its own, 0 or more; raises UsageError if not."""
    known = {label: number for label, number in numbers.items() if number is not None}
    if name := next((label for label in numbers if label not in known), None):
        other = next(iter(known), None)
        against = "none of the source's table" if other is None else f"and {other!r} ({places[other]}) is one"
        raise UsageError(f"{places[name]}: the class {name!r} is no number, {against}; give one kind for all")
    found: Numbers = {}
    labels: dict[int, str | int] = {}
    for label, number in known.items():
        if number < 0:
            raise UsageError(f"{places[label]}: the class {label!r} is below 0; leave out the labels of what has none")
        if number > LARGEST:
            raise UsageError(f"{places[label]}: the class {label!r} has more digits than the 18 that shards hold")
        if (other := labels.setdefault(number, label)) != label:
            raise UsageError(
                f"the classes {other!r} ({places[other]}) and {label!r} ({places[label]}) are one number; rename one"
            )
        found[label] = number
    return found


def _digits(count: int) -> tuple[str, ...]:
    """The table of classes without names, so that their number is known; none if they cannot be classes."""
    return tuple(map(str, range(count))) if count <= MOST else ()


def _has_names(table: Sequence[str]) -> bool:
    return tuple(table) != _digits(len(table))


def number_classes(places: Places, table: Sequence[str] = ()) -> tuple[Numbers, tuple[str, ...]]:
    """The number of each label, and the table of names; numbers without names are called by their digits.

    Args:
        places: labels, each with the first place where it is found, for errors.
        table: names by their numbers, if the source has them.

    Raises:
        UsageError: Some labels are names and others numbers, two are one number, or one is in no table.
    """
    given: Numbers = {name: number for number, name in enumerate(table)}
    # A number is a place in the table, whose names may be digits in another order: "0", "1", "10", "2".
    numbers = {label: given.get(label, as_integer(label)) for label in places}
    if table or any(number is not None for number in numbers.values()):
        found = _check_numbers(numbers, places)
        return found, tuple(table) or _digits(max(found.values()) + 1)
    names = table_of(map(str, places))
    return {name: number for number, name in enumerate(names)}, names


def table_difference(ours: Sequence[str], theirs: Sequence[str]) -> str | None:
    """How the table of a target's classes differs from that of the shards, or None if it does not as far as is known.

    A name of a target may list synonyms (`tench, Tinca tinca`).
    """
    if not _has_names(ours) or not _has_names(theirs):
        return None
    if tuple(ours) == imagenet_wnids() and tuple(theirs) != imagenet_wnids():
        ours = [_IMAGENET_WORDS.get(number, "") for number in range(len(ours))]
    if len(ours) != len(theirs):
        return f"{len(ours)} names in the shards' manifest, {len(theirs)} in the target"
    for number, (name, synonyms) in enumerate(zip(ours, theirs, strict=True)):
        known = {synonym.strip().lower() for synonym in (synonyms, *synonyms.split(","))}
        if name and name.lower() not in known:
            return f"class {number} is {name!r} in the shards' manifest, {synonyms!r} in the target"
    return None


def describe_table(names: Sequence[str]) -> str:
    """The names of classes in few words, each with its number."""
    if not _has_names(names):
        return f"none, {len(names)} numbers"
    shown = [f"{number} {name}" for number, name in enumerate(names)]
    return ", ".join(shown if len(shown) <= 12 else [*shown[:5], "...", *shown[-2:]])
