"""The order of files whose images are numbered: train, validation, test, as their names say, then by name.

A word in the name of a file or of a folder above it says the split, as on the Hugging Face hub.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from ldm_scale.errors import UsageError

SPLITS = {
    **dict.fromkeys(("train", "training", "trainset"), 0),
    **dict.fromkeys(("validation", "valid", "val", "dev", "valset", "devset"), 1),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "testset"), 2),
}
# Also those of names like cifarTrain.
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def splits_of(name: str) -> set[int]:
    """The places of the splits that the words of a name say."""
    return {SPLITS[word.lower()] for word in _WORDS.findall(name) if word.lower() in SPLITS}


def _above(path: str) -> str:
    """The folder above the first part that says a split: that of a configuration, on the hub."""
    parts = path.split("/")
    first = next((place for place, part in enumerate(parts) if splits_of(part)), len(parts))
    return "/".join(parts[:first])


def _by_value(path: str) -> list[str | int]:
    """A path with its numbers as numbers, which sorts 2 before 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path)]


def _wording(path: str) -> str:
    """What is left of a path without its numbers: files that are numbered have it in common."""
    return re.sub(r"\d+", "", path)


def _rank_by_split(paths: Sequence[str]) -> tuple[dict[str, int], str]:
    """The place of each file's split, and why it is not known, if it is not."""
    splits = {path: splits_of(path) for path in paths}
    if not any(splits.values()):
        other = next((path for path in paths if _wording(path) != _wording(paths[0])), None)
        return dict.fromkeys(paths, 0), f"{paths[0]!r} and {other!r} name no split that is known" if other else ""
    if unknown := [path for path, found in splits.items() if len(found) != 1]:
        return dict.fromkeys(paths, 0), f"{unknown[0]!r} says no split, or two, while others say theirs"
    ranks = {path: found.pop() for path, found in splits.items()}
    folders: dict[int, set[str]] = defaultdict(set)
    for path, rank in ranks.items():
        folders[rank].add(_above(path))
    if doubled := next((sorted(found) for found in folders.values() if len(found) > 1), None):
        return ranks, f"{doubled[0] or '.'!r} and {doubled[1]!r} both hold a split of one name"
    return ranks, ""


def _rank_by_beginnings(paths: Sequence[str], beginnings: Sequence[str]) -> dict[str, int]:
    """The place of the beginning that each file's name, or that of a folder above it, has."""
    found = {path: [n for n, start in enumerate(beginnings) if f"/{start}" in f"/{path}"] for path in paths}
    if bad := next((path for path, places in found.items() if len(places) != 1), None):
        raise UsageError(f"order: {bad!r} begins as {len(found[bad])} of {','.join(beginnings)}, and must as one")
    ranks = {path: places[0] for path, places in found.items()}
    if unused := [start for n, start in enumerate(beginnings) if n not in ranks.values()]:
        raise UsageError(f"order: no file begins with {unused[0]!r}")
    return ranks


def order_files(paths: Iterable[str], beginnings: Sequence[str] = ()) -> tuple[list[str], str]:
    """The paths in the order in which their images are numbered, and why that cannot be known, if it cannot.

    Args:
        paths: of files, relative to their source.
        beginnings: how the names of files, or of folders above them, begin, in the order that is wanted.

    Raises:
        UsageError: A file begins as none of `beginnings`, or as two, or one of them begins no file.

    Example:
        >>> order_files(["data/test-0.parquet", "data/train-0.parquet"])
        (['data/train-0.parquet', 'data/test-0.parquet'], '')
    """
    paths = sorted(paths)
    ranks, doubt = (_rank_by_beginnings(paths, beginnings), "") if beginnings else _rank_by_split(paths)
    ordered = sorted(paths, key=lambda path: (ranks[path], path))
    by_value = sorted(paths, key=lambda path: (ranks[path], _by_value(path)))
    if wrong := next((pair for pair in zip(ordered, by_value, strict=True) if pair[0] != pair[1]), None):
        doubt = doubt or f"by name {wrong[0]!r} comes before {wrong[1]!r}, by number after it"
    return ordered, doubt
