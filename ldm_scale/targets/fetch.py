"""From an address to files on this node: a local path, s3:// (copied once a node) or a hub id with revision."""

import glob
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from filelock import FileLock
from huggingface_hub import is_offline_mode, snapshot_download

from ldm_scale.errors import RunError, UsageError, one_line
from ldm_scale.files.digests import digest
from ldm_scale.files.space import room_at
from ldm_scale.files.storage import Location
from ldm_scale.targets.layout import COMPONENTS, LORA_WEIGHTS, MODEL, OTHERS, PLAIN

CACHE = "LDM_SCALE_CACHE"
HUB_ID = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Kind:
    """Which files of a folder are fetched.

    Attributes:
        what: its name in messages.
        form: "folder", or "file or folder".
        depth: how many names a file's path below the folder has at most.
        patterns: of the files.
        more: each gives patterns that are added in view of the names that were found until then.
        repository: what the hub calls it: model, or dataset.
    """

    what: str
    form: str
    depth: int
    patterns: tuple[str, ...]
    more: tuple[Callable[[Collection[str]], tuple[str, ...]], ...] = ()
    repository: str = "model"

    @property
    def deeper(self) -> str:
        """The pattern of the names that lie too deep; a `*` takes slashes, too."""
        return "/".join("*" * (self.depth + 1))

    @property
    def outline(self) -> "Kind":
        """The same without weights: what a model's shapes follow from."""
        kept = (pattern for pattern in self.patterns if not pattern.endswith(".safetensors"))
        return replace(self, patterns=tuple(kept), more=())


def _for_bare_parts(patterns: tuple[str, ...], names: Collection[str]) -> tuple[str, ...]:
    """The patterns for each component of a target that has no weights yet."""
    weighted = {name.split("/")[0] for name in names if name.endswith(".safetensors")}
    bare = [part for part in COMPONENTS if f"{part}/config.json" in names and part not in weighted]
    return tuple(f"{part}/{pattern}" for part in bare for pattern in patterns)


def _if_bare(patterns: tuple[str, ...], names: Collection[str]) -> tuple[str, ...]:
    """The patterns if there are no weights yet."""
    return () if any(name.endswith(".safetensors") for name in names) else patterns


TARGET = Kind(
    "target",
    "folder",
    2,
    ("model_index.json", *(f"{part}/{pattern}" for part in COMPONENTS for pattern in (*COMPONENTS[part], *PLAIN))),
    tuple(partial(_for_bare_parts, patterns) for patterns in OTHERS),
)
# An autoencoder by itself, not in a target's folder.
AUTOENCODER = Kind(
    "autoencoder",
    "folder",
    1,
    tuple(pattern for pattern in (*MODEL, *PLAIN) if not pattern.startswith("model")),
    tuple(partial(_if_bare, patterns) for patterns in OTHERS),
)
# A source of images; its patterns are those of a folder in it.
DATASET = Kind("data set", "folder", 12, ("*",), repository="dataset")
LORA = Kind("lora", "file or folder", 1, (LORA_WEIGHTS,), (partial(_if_bare, ("*.safetensors",)),))


@dataclass(frozen=True)
class Source:
    """A file or folder on this node, and the address it came from, pinned to its commit on the hub."""

    address: str
    path: Path
    is_copy: bool

    def digest(self, compute: Callable[[Path], str]) -> str:
        """compute(path); only once a node for a copy, which never changes, and a list of files that are read."""
        if not self.is_copy:
            return compute(self.path)
        note = _cache() / f"{digest([str(self.path), version('ldm_scale'), COMPONENTS])}.sha256"
        with FileLock(f"{note}.lock"):
            if not note.is_file():
                Location.of(note).replace(compute(self.path).encode())
        return note.read_text()


def fetch(address: str, kind: Kind) -> Source:
    """The file or folder of an address, on this node.

    Args:
        address: a local path, s3:// address, or hub id (organisation/name or organisation/name@revision).
        kind: which of its files are fetched.

    Raises:
        UsageError: There is none, or it cannot be read.
        RunError: It changed while it was read.
    """
    location = Location.of(address)
    if not location.is_local:
        return Source(location.uri, _from_s3(location, kind), is_copy=True)
    path = Path(location.uri)
    if path.exists():
        return Source(location.uri, path, is_copy=False)
    hub_id = HUB_ID.fullmatch(address)
    if hub_id is None:
        raise UsageError(
            f"{kind.what} {kind.form} {path} does not exist; give a local path, s3://bucket/prefix or a hub id "
            "(organisation/name or organisation/name@revision)"
        )
    folder = from_hub(hub_id["name"], hub_id["revision"], kind)
    return Source(f"{hub_id['name']}@{folder.name}", folder, is_copy=True)


def from_hub(name: str, revision: str | None, kind: Kind) -> Path:
    """The snapshot of a hub repository, a folder named by its commit; huggingface_hub keeps it and resumes it."""

    def download(revision: str | None, patterns: tuple[str, ...]) -> Path:
        return Path(
            snapshot_download(
                name,
                repo_type=kind.repository,
                revision=revision,
                allow_patterns=list(patterns),
                ignore_patterns=[kind.deeper],
                # Releases before 2 ask the hub what a commit holds even if they may not.
                local_files_only=is_offline_mode(),
            )
        )

    try:
        folder = download(revision, kind.patterns)
        patterns = kind.patterns
        for further in kind.more:
            names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
            if more := further(_matching(names, patterns, kind)):
                # By the commit: a branch may have moved since.
                download(folder.name, more)
                patterns += more
    except Exception as error:
        # The library raises errors of three packages; each means that the hub does not have this, or refuses it.
        asked = f"{name}@{revision}" if revision else name
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if isinstance(error, PermissionError | FileExistsError | NotADirectoryError):
            reason += "; set HF_HOME to a folder that can be written"
        elif is_offline_mode():
            reason = "HF_HUB_OFFLINE is set, and no copy is kept here; unset it, or give the path of a copy"
        raise UsageError(f"{kind.what} {asked} is no local path, and the hub does not give it: {reason}") from error
    return folder


def _matching(names: Iterable[str], patterns: tuple[str, ...], kind: Kind) -> set[str]:
    return {
        name for name in names if any(fnmatch(name, pattern) for pattern in patterns) and not fnmatch(name, kind.deeper)
    }


def _cache() -> Path:
    folder = Path(os.environ.get(CACHE, "~/.cache/ldm_scale")).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"no copies can be kept in {folder} ({error.strerror}); set {CACHE} to a folder") from error
    return folder


@runtime_checkable
class Remote(Protocol):
    """A folder that lies elsewhere, and each file below it."""

    @property
    def uri(self) -> str: ...

    def __truediv__(self, child: str) -> "Remote": ...

    def versions(self) -> dict[str, tuple[int, int]]:
        """Size and modification time of every file below, by its name there."""

    def download(self, file: BinaryIO) -> object:
        """Copy a file into an open one."""


def _from_s3(root: Location, kind: Kind) -> Path:
    """The copy of a file or folder in this node's cache, named by its address and the versions of its files."""
    if root.name.endswith(".safetensors"):
        one_file = replace(kind, depth=1, patterns=(glob.escape(root.name),), more=())
        return keep_copy(Location(root.uri.rsplit("/", 1)[0]), one_file) / root.name
    return keep_copy(root, kind)


def keep_copy(root: Remote, kind: Kind) -> Path:
    """The copy of a folder in this node's cache, made unless it is there already.

    Raises:
        UsageError: There is none, or it cannot be read.
        RunError: It changed while it was read.
    """
    try:
        listing = _listing(root, kind)
        if not listing:
            raise UsageError(f"{kind.what} {root} does not exist, or holds no file of a {kind.what}")
        folder = _cache() / digest([root.uri, listing])
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                _copy(root, listing, kind, folder)
    except OSError as error:
        raise UsageError(f"{kind.what} {root} cannot be read: {one_line(error)}") from error
    return folder


def _listing(root: Remote, kind: Kind) -> dict[str, tuple[int, int]]:
    """Size and modification time of each file that is read, by its name below the folder."""
    found = root.versions()
    names = _matching(found, kind.patterns, kind)
    for further in kind.more:
        names |= _matching(found, further(names), kind)
    # Below the folder in name only: a key may say "..".
    return {name: found[name] for name in sorted(names) if ".." not in name.split("/")}


def _copy(root: Remote, listing: Mapping[str, tuple[int, int]], kind: Kind, folder: Path) -> None:
    """Copy files under another name first, so that the folder is there whole or not at all."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)

    def copy(name: str) -> int:
        path = partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with room_at(str(path), f"or set {CACHE} to a folder with more"), path.open("wb") as file:
            (root / name).download(file)
        return path.stat().st_size

    with ThreadPoolExecutor(8) as threads:
        sizes = dict(zip(listing, threads.map(copy, listing), strict=True))
    if sizes != {name: size for name, (size, _) in listing.items()} or _listing(root, kind) != listing:
        raise RunError(f"{kind.what} {root} changed while it was copied")
    partial.rename(folder)
