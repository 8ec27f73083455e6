"""A data set of Hugging Face's hub, copied to this machine, as a source folder."""

import re
from dataclasses import replace
from urllib.parse import unquote

from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location
from ldm_scale.terminal import say

SCHEME = "hf://"
ADDRESS = re.compile(r"hf://datasets/(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.%~-]+))?(/(?P<folder>.+?))?/?")


def find_source(address: str) -> Location:
    """The folder of an address: local, on S3, or the copy of a data set of the hub, whose commit is said.

    Args:
        address: a folder, or hf://datasets/organisation/name[@revision][/folder], as fsspec writes it.

    Raises:
        UsageError: The hub does not have it, or there is no such folder.
    """
    if not address.startswith(SCHEME):
        folder = Location.of(address)
    elif (match := ADDRESS.fullmatch(address)) is None:
        raise UsageError(f"{address} is no address such as hf://datasets/organisation/name@revision/folder")
    else:
        # The hub's library takes long to load.
        from ldm_scale.targets.fetch import DATASET, from_hub

        inside = match["folder"] or ""
        kind = replace(DATASET, patterns=(f"{inside}/*" if inside else "*",))
        snapshot = from_hub(match["name"], match["revision"] and unquote(match["revision"]), kind)
        say(f"{address}: commit {snapshot.name}")
        folder = Location.of(snapshot / inside)
    if not folder.is_dir():
        raise UsageError(f"source folder {folder} does not exist")
    return folder
