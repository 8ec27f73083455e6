"""Folders of Google Cloud Storage, which are only read, through pyarrow's own client."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import BinaryIO

import pyarrow as pa
from pyarrow.fs import FileSelector, FileType, GcsFileSystem

from ldm_scale.errors import UsageError, one_line

SCHEME = "gs://"
ADDRESS = re.compile(r"gs://(?P<anonymous>anonymous@)?(?P<path>[a-z0-9][\w.-]+(/.*?)?)/*")
# How long the client tries again. It also waits so long for credentials on a machine that has none.
PATIENCE = timedelta(seconds=60)
# What the user can fix, by words of Google's client.
CAUSES = {
    "OAuth2 access token": "there are no credentials that work; run `gcloud auth application-default login`, set "
    "GOOGLE_APPLICATION_CREDENTIALS, or give gs://anonymous@bucket/folder if all may read it",
    "PERMISSION_DENIED": "access denied: these credentials may not read it",
    "UNAUTHENTICATED": "the credentials are not accepted there; log in again",
}


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        text = str(error)
        cause = next((cause for words, cause in CAUSES.items() if words in text), None)
        raise OSError(cause or one_line(error)) from error


@dataclass(frozen=True)
class GcsLocation:
    """A file or folder in a bucket: gs://bucket/folder, or gs://anonymous@bucket/folder without credentials."""

    uri: str
    path: str
    client: GcsFileSystem

    @classmethod
    def of(cls, address: str) -> "GcsLocation":
        """The location of an address; nothing is asked of it yet.

        Raises:
            UsageError: It names no bucket.
        """
        match = ADDRESS.fullmatch(address)
        if match is None:
            raise UsageError(f"{address} is no address such as gs://bucket/folder")
        client = GcsFileSystem(anonymous=match["anonymous"] is not None, retry_time_limit=PATIENCE)
        return cls(address.rstrip("/"), match["path"], client)

    def __truediv__(self, child: str) -> "GcsLocation":
        return GcsLocation(f"{self.uri}/{child}", f"{self.path}/{child}", self.client)

    def __str__(self) -> str:
        return self.uri

    def versions(self) -> dict[str, tuple[int, int]]:
        """(bytes, nanoseconds of last change) of every file below a folder, by its path there."""
        with _explained():
            found = self.client.get_file_info(FileSelector(self.path, allow_not_found=True, recursive=True))
        return {
            file.path.removeprefix(f"{self.path}/"): (file.size, file.mtime_ns)
            for file in found
            if file.type == FileType.File
        }

    def download(self, file: BinaryIO) -> None:
        """Copy a file into an open one."""
        with _explained(), self.client.open_input_stream(self.path) as stream:
            shutil.copyfileobj(stream, file, 8 << 20)
