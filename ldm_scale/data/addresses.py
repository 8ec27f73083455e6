"""What an address of shards stands for: a folder, one .tar file, or a brace pattern of them; and their manifest."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from braceexpand import braceexpand

from ldm_scale.data.manifest import MANIFEST, Manifest, check_stems, parse_manifest, read_manifest
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location, sub_locations

TAR = ".tar"
# How many folders above a pattern's own may hold its manifest: that of x/members/{0..9}.tar lies in x.
ABOVE = 3


@dataclass(frozen=True)
class Shards:
    """The shards that an address stands for: their folder, and its manifest with these alone."""

    folder: Location
    manifest: Manifest


def _expand(address: str) -> tuple[str, ...]:
    """The absolute addresses of one folder or of .tar files, in the pattern's order, each once."""
    uri = Location.of(address).uri
    try:
        uris = tuple(dict.fromkeys(braceexpand(uri))) if "{" in uri else (uri,)
    except ValueError:
        raise UsageError(f"{address}: its braces are not balanced") from None
    stray = next((uri for uri in uris if not uri.endswith(TAR)), None)
    if len(uris) > 1 and stray is not None:
        raise UsageError(f"{address}: a brace pattern stands for {TAR} files, and {stray} is none")
    return uris


def _is_folder(uris: tuple[str, ...]) -> bool:
    return not uris[0].endswith(TAR)


def _common_folder(uris: tuple[str, ...]) -> Location:
    """The folder of one address, or the deepest that holds several .tar files."""
    if _is_folder(uris):
        return Location(uris[0])
    # commonpath would make s3:/ of s3://.
    folder = Location(os.path.commonprefix(uris).rpartition("/")[0])  # noqa: RUF071
    if folder.uri == "s3:/":
        raise UsageError(f"{uris[0]} and {uris[-1]} lie in two buckets; shards of one audit lie in one")
    return folder


def _upwards(uris: tuple[str, ...]) -> Iterator[Location]:
    """The folders that may hold the manifest, the deepest first."""
    folder = _common_folder(uris)
    yield folder
    for _ in range(0 if _is_folder(uris) else ABOVE):
        folder = Location(folder.uri.rpartition("/")[0])
        if folder.uri in ("", "s3:/"):
            return
        yield folder


def find_manifest(address: str, manifest: str | None = None) -> Location | None:
    """The manifest of the shards at an address, or None if there is none.

    It is the given one, or the folder's; that of a pattern lies in the deepest folder at or above its shards.
    """
    files = [Location.of(manifest)] if manifest is not None else [at / MANIFEST for at in _upwards(_expand(address))]
    return next((file for file in files if file.is_file()), None)


def _named_from(uri: str, manifest: Manifest, file: Location) -> Location:
    """The folder from which a manifest that lies elsewhere names a shard."""
    name = next((shard.name for shard in manifest.shards if uri.endswith(f"/{shard.name}")), None)
    if name is None:
        raise UsageError(f"{file} does not name the shard {uri}")
    return Location(uri.removesuffix(f"/{name}"))


def open_shards(address: str, manifest: str | None = None) -> Shards:
    """The shards at an address with their manifest: all of a folder's, or exactly those of a brace pattern.

    manifest: the address of a manifest that lies elsewhere; its names are relative to the shards' folder all the same.

    Raises:
        UsageError: There is no manifest, it is malformed, or it does not name a shard of the pattern.
    """
    uris, file = _expand(address), find_manifest(address, manifest)
    if file is None and manifest is not None:
        raise UsageError(f"manifest {manifest} does not exist")
    if _is_folder(uris):
        folder = Location(uris[0])
        if file is None and folder.is_dir() and next(sub_locations(folder, TAR), None) is None:
            raise _no_shards(folder)
        return Shards(folder, read_manifest(folder) if file is None else parse_manifest(file))
    if file is None:
        raise UsageError(
            f"no {MANIFEST} lies in {_common_folder(uris)} or above it; make one with "
            f"`ldm-scale validate --shards '{address}' --write-manifest`"
        )
    found = parse_manifest(file)
    folder = _named_from(uris[0], found, file) if manifest is not None else Location(file.uri.rpartition("/")[0])
    return Shards(folder, _select(found, folder, uris, file))


def _select(manifest: Manifest, folder: Location, uris: tuple[str, ...], file: Location) -> Manifest:
    """A manifest of these shards alone, in the order in which it names them."""
    wanted = dict.fromkeys(uris)
    shards = tuple(shard for shard in manifest.shards if (folder / shard.name).uri in wanted)
    known = {(folder / shard.name).uri for shard in shards}
    if absent := next((uri for uri in uris if uri not in known), None):
        raise UsageError(f"{file} does not name the shard {absent}")
    return manifest.model_copy(update={"shards": shards})


def list_shards(address: str) -> tuple[Location, tuple[str, ...]]:
    """The folder, and the sorted names in it, of the .tar files at an address, whatever a manifest says.

    Raises:
        UsageError: There are none, or two of one stem.
    """
    uris = _expand(address)
    folder = _common_folder(uris)
    if not _is_folder(uris):
        names = tuple(sorted(uri.removeprefix(f"{folder}/") for uri in uris))
    else:
        folder.expect("shard folder")
        names = tuple(name for name, _ in sub_locations(folder, TAR))
    if not names:
        raise _no_shards(folder)
    check_stems(names, f"{folder} holds")
    return folder, names


def _no_shards(folder: Location) -> UsageError:
    return UsageError(
        f"shard folder {folder} holds no {TAR} files; if it holds images, `ldm-scale pack folder '{folder}' OUT` makes "
        "shards of them"
    )
