"""A data set of Hugging Face's hub or of Google Cloud Storage, copied to this machine, as a source folder."""

import re
from dataclasses import replace
from urllib.parse import unquote

from ldm_scale.errors import UsageError
from ldm_scale.files import gcs
from ldm_scale.files.storage import Location
from ldm_scale.terminal import say

HUB = "hf://"
ADDRESS = re.compile(r"hf://datasets/(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.%~-]+))?(/(?P<folder>.+?))?/?")


def find_source(address: str) -> Location:
    """The folder of an address: local, on S3, or the copy of a data set that lies elsewhere.

    Args:
        address: a folder; hf://datasets/organisation/name[@revision][/folder], whose commit is said; or
            gs://bucket/folder, as fsspec writes them.

    Raises:
        UsageError: There is no such folder, or it cannot be read.
    """
    if address.startswith(HUB):
        folder = _from_hub(address)
    elif address.startswith(gcs.SCHEME):
        # It loads the hub's library, which takes long.
        from ldm_scale.targets.fetch import DATASET, keep_copy

        folder = Location.of(keep_copy(gcs.GcsLocation.of(address), DATASET))
        say(f"{address}: copied to {folder}")
    else:
        folder = Location.of(address)
    folder.expect("source folder")
    return folder


def _from_hub(address: str) -> Location:
    if (match := ADDRESS.fullmatch(address)) is None:
        raise UsageError(f"{address} is no address such as hf://datasets/organisation/name@revision/folder")
    # The hub's library takes long to load.
    from ldm_scale.targets.fetch import DATASET, from_hub

    inside = match["folder"] or ""
    kind = replace(DATASET, patterns=(f"{inside}/*" if inside else "*",))
    snapshot = from_hub(match["name"], match["revision"] and unquote(match["revision"]), kind)
    say(f"{address}: commit {snapshot.name}")
    return Location.of(snapshot / inside)
