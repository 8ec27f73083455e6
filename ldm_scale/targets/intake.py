"""What is read of a component's folder: the files on our list alone, checked, and handed over in a folder of our own.

diffusers and transformers look for files by themselves: an adapter beside the weights, or what an index or a key of a
configuration names. In a folder that holds nothing else they find nothing else, and what the digest covers is what they
read.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from ldm_scale.errors import UsageError
from ldm_scale.targets.layout import choose_variant, variant_of

# Bytes of a file that describes; the largest known are vocabularies, of 2 to 20 MB.
LARGEST = 4 << 20
LARGEST_VOCABULARY = 64 << 20
# How the names of our own folders begin.
OWN = "ldm-scale-target-"
VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt")


def check_file(path: Path) -> Path:
    """The path of a file that lies in its folder, or in the hub's cache and is linked there.

    Raises:
        FileNotFoundError: There is nothing of this name.
        UsageError: It is no file, or a link that leads out of the folder: to a secret, or to what others can change.
    """
    os.lstat(path)
    place = os.path.realpath(path)
    # Where the hub's cache keeps them: in blobs/ beside snapshots/.
    caches = [parent.parent for parent in path.parents if parent.name == "snapshots"]
    homes = {os.path.realpath(path.parent), *(f"{os.path.realpath(cache)}/blobs" for cache in caches)}
    if os.path.dirname(place) not in homes:
        raise UsageError(f"{path} is a link that leads out of its folder; put the file itself there")
    if not os.path.isfile(place):
        raise UsageError(f"{path} is no file")
    return path


def read_files(component: Path, described: tuple[str, ...]) -> list[Path]:
    """The files that a component is made of, by name: those that describe it, and one variant of its weights.

    Args:
        component: its folder.
        described: patterns of the files that describe a component of its kind.

    Raises:
        UsageError: One of them is no file, or a link that leads out of the folder.
    """
    names = [path.name for path in component.iterdir()]
    variant = choose_variant(names)
    descriptions = {name for name in names if any(fnmatch(name, pattern) for pattern in described)}
    weights = {name for name in names if variant is not None and variant_of(name) == variant}
    return [check_file(component / name) for name in sorted(descriptions | weights)]


class Stamp(NamedTuple):
    """What tells of a file that it is the same as before: the last is the time of its last change, in ns."""

    path: str
    device: int
    inode: int
    size: int
    changed: int


def stamp(path: Path) -> Stamp:
    """A file's stamp as it is now."""
    at = path.stat()
    return Stamp(str(path), at.st_dev, at.st_ino, at.st_size, at.st_ctime_ns)


def digest_files(paths: Iterable[Path]) -> str:
    """SHA-256 over the names, their folders' names and the bytes of files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.parent.name}/{path.name}:{content}\n".encode())
    return digest.hexdigest()


def read_small(path: Path) -> bytes:
    """A file that describes; raises UsageError if it is far larger than any such file is, or no file of its folder."""
    most = LARGEST_VOCABULARY if path.name in VOCABULARIES else LARGEST
    with check_file(path).open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise UsageError(f"{path} has more than {most:,} bytes; no file of this name needs them")
    return data


def read_config(path: Path, key: str) -> dict[str, Any]:
    """The configuration in a file, which holds `key`.

    Raises:
        UsageError: It does not, or is no file of its folder.
    """
    try:
        config: dict[str, Any] = json.loads(read_small(path))
        config[key]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(f"{path} is not a configuration of diffusers or transformers: it has no {key}") from None
    return config


@contextmanager
def handed_over(component: Path, described: tuple[str, ...], given: Callable[[Path, bytes], bytes]) -> Iterator[Path]:
    """A folder that holds what is read of a component and nothing else, for the length of a block.

    Weights are links to the files themselves.

    Args:
        component: its folder.
        described: patterns of the files that describe a component of its kind.
        given: what is handed over of such a file, from its path and bytes.

    Raises:
        UsageError: A file is not what its name says.
    """
    with TemporaryDirectory(prefix=OWN) as name:
        own = Path(name)
        for path in read_files(component, described):
            if path.suffix == ".safetensors":
                (own / path.name).symlink_to(os.path.realpath(path))
            else:
                (own / path.name).write_bytes(given(path, read_small(path)))
        yield own
