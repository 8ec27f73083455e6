"""Local paths and s3:// addresses behind pyarrow.fs, with writes that appear whole or not at all."""

import contextlib
import functools
import hashlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ldm_scale.errors import UsageError


@functools.lru_cache(maxsize=64)
def _filesystem(root: str) -> pafs.FileSystem:
    """One filesystem a process and bucket, built where it is used: pickled ones lose their retry strategy."""
    if root == "file":
        return pafs.LocalFileSystem()
    filesystem, _ = pafs.FileSystem.from_uri(root)
    return filesystem


@dataclass(frozen=True)
class Location:
    """A file or folder, local or on S3; only its address is kept, so it travels to any worker.

    listed: bytes of the file, where a listing named them.
    """

    uri: str
    listed: int | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, uri: "str | os.PathLike[str] | Location") -> "Location":
        """The location of a path or s3:// address; local paths are made absolute.

        Raises UsageError for an address of another kind.
        """
        if isinstance(uri, Location):
            return uri
        text = os.fspath(uri)
        if text.startswith("s3://"):
            return cls(text.rstrip("/"))
        if "://" in text:
            raise UsageError(f"{text}: only local paths and s3:// addresses can be read")
        return cls(os.path.abspath(os.path.expanduser(text)))

    @property
    def is_local(self) -> bool:
        return not self.uri.startswith("s3://")

    @property
    def name(self) -> str:
        return self.uri.rsplit("/", 1)[-1]

    @property
    def _fs(self) -> pafs.FileSystem:
        return _filesystem("file" if self.is_local else "/".join(self.uri.split("/")[:3]))

    @property
    def _path(self) -> str:
        return self.uri if self.is_local else self.uri.removeprefix("s3://")

    def __truediv__(self, child: str) -> "Location":
        return Location(f"{self.uri}/{child}")

    def __str__(self) -> str:
        return self.uri

    def _info(self) -> pafs.FileInfo:
        return self._fs.get_file_info(self._path)

    def is_file(self) -> bool:
        return bool(self._info().type == pafs.FileType.File)

    def is_dir(self) -> bool:
        return bool(self._info().type == pafs.FileType.Directory)

    def size(self) -> int:
        """Bytes of a file, as a listing named them or else as they are now."""
        return int(self._info().size) if self.listed is None else self.listed

    def files(self, suffix: str = "", recursive: bool = False) -> list["Location"]:
        """The files below a folder whose names end with `suffix`, sorted by address; none if there is no folder."""
        selector = pafs.FileSelector(self._path, allow_not_found=True, recursive=recursive)
        prefix = "" if self.is_local else "s3://"
        return sorted(
            (
                Location(prefix + info.path, info.size)
                for info in self._fs.get_file_info(selector)
                if info.type == pafs.FileType.File and info.path.endswith(suffix)
            ),
            key=str,
        )

    def versions(self) -> dict[str, tuple[int, int]]:
        """(bytes, nanoseconds of last change) of every file below a folder, by its path there."""
        selector = pafs.FileSelector(self._path, allow_not_found=True, recursive=True)
        return {
            info.path.removeprefix(self._path + "/"): (info.size, info.mtime_ns)
            for info in self._fs.get_file_info(selector)
            if info.type == pafs.FileType.File
        }

    def folders(self) -> list["Location"]:
        """The folders in a folder, sorted by address."""
        selector = pafs.FileSelector(self._path, allow_not_found=True)
        found = (info for info in self._fs.get_file_info(selector) if info.type == pafs.FileType.Directory)
        return sorted((self / info.base_name for info in found), key=str)

    def is_empty(self) -> bool:
        """True where nothing is there, or a folder with nothing in it."""
        selector = pafs.FileSelector(self._path, allow_not_found=True, recursive=False)
        return not self.is_file() and not self._fs.get_file_info(selector)

    def open(self) -> pa.NativeFile:
        """A file opened for random access."""
        return self._fs.open_input_file(self._path)

    def open_stream(self) -> pa.NativeFile:
        """A file opened for reading from its first byte to its last."""
        return self._fs.open_input_stream(self._path, compression=None)

    def read_bytes(self) -> bytes:
        with self.open_stream() as stream:
            return bytes(stream.read())

    def read_text(self) -> str:
        return self.read_bytes().decode("utf-8")

    def sha256(self) -> str:
        """Hex digest of a file's bytes."""
        digest = hashlib.sha256()
        with self.open_stream() as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()

    def make_dir(self) -> None:
        """Create a folder; on S3 there are none to create."""
        if self.is_local:
            self._fs.create_dir(self._path, recursive=True)

    def copy_from(self, filesystem: pafs.FileSystem, path: str) -> None:
        """Copy a folder of another filesystem here."""
        pafs.copy_files(path, self._path, source_filesystem=filesystem, destination_filesystem=self._fs)

    def delete_dir(self) -> None:
        """Remove a folder of our own intermediate files."""
        self._fs.delete_dir(self._path)

    def replace(self, data: "bytes | pa.Buffer") -> None:
        """Write a file that appears whole or not at all, in place of an older one if there is one."""
        if not self.is_local:
            with self._fs.open_output_stream(self._path) as stream:
                stream.write(data)
            return
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        partial = f"{self._path}.{uuid.uuid4().hex}.partial"
        try:
            with open(partial, "wb") as stream:
                stream.write(data)
            os.replace(partial, self._path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)

    def create(self, data: "bytes | pa.Buffer") -> None:
        """Write a new file that appears whole or not at all.

        Raises UsageError where a file of that name exists: nothing is ever overwritten.
        """
        if self.is_file():
            raise UsageError(f"{self} exists already; nothing is overwritten")
        self.replace(data)


def sub_locations(folder: Location, suffix: str) -> Iterator[tuple[str, Location]]:
    """(path relative to the folder, location) of every file below it that ends with `suffix`."""
    for location in folder.files(suffix, recursive=True):
        yield location.uri.removeprefix(folder.uri + "/"), location


def read_table(location: Location, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file, or some of its columns."""
    with location.open() as stream:
        return pq.read_table(stream, columns=columns)


def write_table(location: Location, table: pa.Table) -> None:
    """Write one Parquet file (zstd), whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    location.replace(sink.getvalue())
