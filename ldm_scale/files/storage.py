"""Local paths and s3:// addresses behind one interface, with writes that appear whole or not at all."""

import contextlib
import errno
import functools
import hashlib
import io
import os
import shutil
import stat
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from filelock import FileLock
from pydantic import BaseModel, ValidationError

from ldm_scale.errors import ExistsError, RunError, UsageError, one_line
from ldm_scale.files import s3
from ldm_scale.files.space import check_room, room_at

# Bytes that one request for a part of a stream asks for.
BUFFER = 8 << 20

# What to do about a full file system: of files that are written, and of copies of what is read.
GOES_ON = "then the same command goes on where this one stopped"
MORE_ROOM = "or set TMPDIR to a folder with more"

M = TypeVar("M", bound=BaseModel)
# What a file system without hard links (exFAT, some of NFS and FUSE) says to one.
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
# Hears of what a listing passes over: the rule, and the name.
Skip = Callable[[str, str], object]
BROKEN_LINK = "a link that leads nowhere"
SPECIAL = "neither a file nor a folder"


def refuse(rule: str, name: str) -> None:
    """A listing's `skip` that passes over nothing: raises RunError."""
    raise RunError(f"{name} is {rule}")


@dataclass(frozen=True)
class Location:
    """A file or folder, local or on S3; only its address is kept, so it travels to any worker.

    listed: bytes of the file, if a listing named them.
    """

    uri: str
    listed: int | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, uri: "str | os.PathLike[str] | Location") -> "Location":
        """The location of a path or s3:// address; local paths are made absolute.

        Raises:
            UsageError: It is an address of another kind, or names no bucket.
        """
        if isinstance(uri, Location):
            return uri
        text = os.fspath(uri)
        if text.startswith("s3://"):
            if not text.removeprefix("s3://").partition("/")[0]:
                raise UsageError(f"{text}: this S3 address names no bucket")
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
    def _path(self) -> Path:
        return Path(self.uri)

    @property
    def _object(self) -> tuple[str, str]:
        """Bucket and key."""
        bucket, _, key = self.uri.removeprefix("s3://").partition("/")
        return bucket, key

    @property
    def _inside(self) -> tuple[str, str]:
        """Bucket, and how the keys of everything in a folder begin."""
        bucket, key = self._object
        return bucket, f"{key}/" if key else ""

    def __truediv__(self, child: str) -> "Location":
        return Location(f"{self.uri}/{child}")

    def __str__(self) -> str:
        return self.uri

    def _mode(self) -> int:
        """What kind of thing lies at a local path; 0 if nothing does."""
        try:
            return os.stat(self.uri).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def is_file(self) -> bool:
        return stat.S_ISREG(self._mode()) if self.is_local else s3.find(*self._object) is not None

    def is_dir(self) -> bool:
        return stat.S_ISDIR(self._mode()) if self.is_local else s3.first(*self._inside) is not None

    def size(self) -> int:
        """Bytes of a file, as a listing named them or else as they are now."""
        if self.listed is not None:
            return self.listed
        if self.is_local:
            return self._path.stat().st_size
        entry = s3.find(*self._object)
        if entry is None:
            raise FileNotFoundError(f"{self} does not exist")
        return entry.size

    def files(self, suffix: str = "", recursive: bool = False, skip: Skip = refuse) -> list["Location"]:
        """The files below a folder whose names end with `suffix`, sorted by address; none if there is no folder.

        Args:
            suffix: of the names.
            recursive: whether folders in it are listed as well. A link to a folder counts as that folder, but one that
                leads back to a folder above it is not followed.
            skip: is told of each broken link, pipe, socket and device; else they are an error.

        Raises:
            RunError: Something there is neither a file nor a folder.
            OSError: A folder cannot be listed.
        """
        found = self._walk(recursive, skip) if self.is_local else self._list(recursive)
        return sorted((location for location in found if location.uri.endswith(suffix)), key=str)

    def _walk(self, recursive: bool, skip: Skip) -> Iterator["Location"]:
        return (Location(path, status.st_size) for path, status in _stats(self.uri, recursive, skip))

    def _list(self, recursive: bool) -> Iterator["Location"]:
        bucket, prefix = self._inside
        entries = s3.list_objects(bucket, prefix) if recursive else s3.list_folder(bucket, prefix)[0]
        return (Location(f"s3://{bucket}/{entry.key}", entry.size) for entry in entries)

    def versions(self) -> dict[str, tuple[int, int]]:
        """(bytes, nanoseconds of last change) of every file below a folder, by its path there."""
        if self.is_local:
            stats = _stats(self.uri, True, refuse)
            return {path.removeprefix(f"{self.uri}/"): (found.st_size, found.st_mtime_ns) for path, found in stats}
        bucket, prefix = self._inside
        return {
            entry.key.removeprefix(prefix): (entry.size, int(entry.changed.timestamp() * 1e9))
            for entry in s3.list_objects(bucket, prefix)
        }

    def folders(self) -> list["Location"]:
        """The folders in a folder, sorted by address; errors as of `files`."""
        if self.is_local:
            found = [Location(path) for path, status in _entries(self.uri, refuse) if stat.S_ISDIR(status.st_mode)]
        else:
            bucket, prefix = self._inside
            found = [Location(f"s3://{bucket}/{folder.rstrip('/')}") for folder in s3.list_folder(bucket, prefix)[1]]
        return sorted(found, key=str)

    def is_empty(self) -> bool:
        """True if nothing is there, or a folder with nothing in it."""
        if self.is_local:
            return not self.is_file() and not (self.is_dir() and os.listdir(self.uri))
        return not self.is_file() and not self.is_dir()

    def open(self) -> BinaryIO:
        """A file opened for random access."""
        return self._path.open("rb") if self.is_local else s3.Ranges(*self._object)  # type: ignore[return-value]

    def open_stream(self) -> io.BufferedReader:
        """A file opened for reading from its first byte to its last."""
        return self._path.open("rb") if self.is_local else io.BufferedReader(s3.Ranges(*self._object), BUFFER)

    @contextlib.contextmanager
    def on_disk(self, sha256: str | None = None) -> Iterator[tuple[BinaryIO, str]]:
        """The whole file on this machine's disk, opened at its first byte, and its SHA-256.

        What comes from S3 is there for the length of the block, in the folder that TMPDIR names; if it has not the
        `sha256` that is expected, it is fetched once more.
        """
        with self._path.open("rb") if self.is_local else self._temporary() as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest() if self.is_local else self._copy(file)
            if not self.is_local and sha256 is not None and digest != sha256:
                # An object may have no checksum by which the client would notice a fault on the way.
                digest = self._copy(file)
            file.seek(0)
            yield file, digest

    def _copy(self, file: IO[bytes]) -> str:
        folder = tempfile.gettempdir()
        with room_at(folder, MORE_ROOM):
            return s3.download(*self._object, file, functools.partial(check_room, folder, remedy=MORE_ROOM))

    @staticmethod
    def _temporary() -> io.BufferedRandom:
        with room_at(tempfile.gettempdir(), MORE_ROOM):
            return tempfile.TemporaryFile()

    def download(self, file: BinaryIO) -> str:
        """Copy a file from S3 into an open one and return its SHA-256; a transient fault starts it from byte 0."""
        return s3.download(*self._object, file)

    def read_bytes(self) -> bytes:
        """A whole file, as it is at one moment."""
        if self.is_local:
            return self._path.read_bytes()
        buffer = io.BytesIO()
        self.download(buffer)
        return buffer.getvalue()

    def read_text(self) -> str:
        return self.read_bytes().decode("utf-8")

    def sha256(self) -> str:
        """Hex digest of a file's bytes."""
        with self.open_stream() as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def make_dir(self) -> None:
        """Create a folder; on S3 there are none to create."""
        if self.is_local:
            self._path.mkdir(parents=True, exist_ok=True)

    def copy_from(self, filesystem: pafs.FileSystem, path: str) -> None:
        """Copy a folder of another filesystem here."""
        selector = pafs.FileSelector(path, recursive=True)
        for info in filesystem.get_file_info(selector):
            if info.type == pafs.FileType.File:
                target = self / info.path.removeprefix(path).lstrip("/")
                target._write(functools.partial(filesystem.open_input_file, info.path))

    def _write(self, open_stream: Callable[[], BinaryIO]) -> None:
        if not self.is_local:
            s3.upload(*self._object, open_stream)
            return
        with open_stream() as stream, self._beside(lambda file: shutil.copyfileobj(stream, file)) as partial:
            os.replace(partial, self.uri)

    def delete_dir(self) -> None:
        """Remove a folder of our own intermediate files."""
        if self.is_local:
            shutil.rmtree(self.uri)
        else:
            s3.delete_folder(*self._inside)

    @contextlib.contextmanager
    def _beside(self, write: Callable[[BinaryIO], object]) -> Iterator[str]:
        """The name of a file beside this one, written and on disk; what is left of it at the end is removed."""
        with room_at(self.uri, GOES_ON):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = f"{self.uri}.{uuid.uuid4().hex}.partial"
        try:
            # A second name takes room as well.
            with room_at(self.uri, GOES_ON):
                with open(partial, "wb") as file:
                    write(file)
                    file.flush()
                    # A name must not outlive its bytes when the machine dies.
                    os.fsync(file.fileno())
                yield partial
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)

    def replace(self, data: "bytes | pa.Buffer") -> None:
        """Write a file that appears whole or not at all, in place of an older one if there is one."""
        if not self.is_local:
            s3.put(*self._object, bytes(data))
            return
        with self._beside(lambda file: file.write(data)) as partial:
            os.replace(partial, self.uri)

    def create(self, data: "bytes | pa.Buffer") -> None:
        """Write a new file that appears whole or not at all; of several writers at a time one succeeds.

        Raises:
            ExistsError: A file of that name exists: nothing is ever overwritten.
        """
        if not self.is_local:
            s3.create(*self._object, bytes(data))
            return
        with self._beside(lambda file: file.write(data)) as partial:
            try:
                _name(partial, self.uri)
            except FileExistsError:
                raise ExistsError(f"{self} exists already; nothing is overwritten") from None

    def check_place(self) -> None:
        """Try, before any work, to create and replace a file where this file or folder will lie; nothing stays there.

        Raises:
            UsageError: It cannot be done there. Buckets are not tried.
        """
        if not self.is_local:
            return
        folder = next(place for place in (self._path, *self._path.parents) if place.is_dir())
        trial = Location(f"{folder}/{uuid.uuid4().hex}.trial")
        try:
            trial.create(b"")
            trial.replace(b"")
        except (OSError, NotImplementedError) as error:
            raise UsageError(
                f"{self} cannot be written, for no file can be created and renamed in {folder}: {one_line(error)}; "
                "give a folder on another file system, or s3://bucket/prefix"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                os.unlink(trial.uri)


def _name(partial: str, path: str) -> None:
    """Give a complete file the name that it is to have; raises FileExistsError if another file has it."""
    try:
        os.link(partial, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        lock = f"{path}.lock"
        # The system frees it if its holder dies.
        with FileLock(lock):
            if not (taken := os.path.lexists(path)):
                os.rename(partial, path)
            # Whoever holds a lock of this name from now on finds the file.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(lock)
        if taken:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None


def _entries(folder: str, skip: Skip) -> Iterator[tuple[str, os.stat_result]]:
    """Path and status, as of what links lead to, of all that lies in a local folder; nothing if there is none.

    Every listing of local folders is made of these; what goes wrong is raised.
    """
    try:
        listing = os.scandir(folder)
    except FileNotFoundError:
        if os.path.islink(folder):
            skip(BROKEN_LINK, folder)
        return
    with listing:
        for entry in listing:
            try:
                status = entry.stat()
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
                # A file that is being written may lose its first name meanwhile; a link that leads nowhere stays.
                if os.path.islink(entry.path):
                    skip(BROKEN_LINK, entry.path)
                continue
            if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                yield entry.path, status
            else:
                skip(SPECIAL, entry.path)


def _stats(folder: str, recursive: bool, skip: Skip) -> Iterator[tuple[str, os.stat_result]]:
    """Path and status of every file in a local folder or, if that is asked for, below it."""
    # Folders to be listed, each with the real ones on the way to it, by device and inode.
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(folder, _identity(folder))]
    while waiting:
        place, way = waiting.pop()
        for path, status in _entries(place, skip):
            if stat.S_ISREG(status.st_mode):
                yield path, status
            elif recursive and (here := (status.st_dev, status.st_ino)) not in way:
                waiting.append((path, (*way, here)))


def _identity(folder: str) -> tuple[tuple[int, int], ...]:
    """What all paths to a folder have in common; nothing if there is none."""
    try:
        status = os.stat(folder)
    except FileNotFoundError:
        return ()
    return ((status.st_dev, status.st_ino),)


def sub_locations(folder: Location, suffix: str, skip: Skip = refuse) -> Iterator[tuple[str, Location]]:
    """(path relative to the folder, location) of every file below it that ends with `suffix`.

    skip: as `Location.files` has it, but told of the path relative to the folder.
    """
    prefix = f"{folder}/"
    tell = refuse if skip is refuse else lambda rule, name: skip(rule, name.removeprefix(prefix))
    for location in folder.files(suffix, True, tell):
        yield location.uri.removeprefix(prefix), location


def _is_extended(kind: pa.DataType) -> bool:
    """Whether a type is or holds an extension type; the values of Ray's are pickles."""
    return isinstance(kind, pa.BaseExtensionType) or any(
        _is_extended(kind.field(number).type) for number in range(kind.num_fields)
    )


def read_table(location: Location, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file, or some of its columns.

    Raises:
        RunError: The file names a type of values that may be pickles: looking at them would run them.
    """
    with location.open() as stream:
        table = pq.read_table(stream, columns=columns)
    if extended := next((field.name for field in table.schema if _is_extended(field.type)), None):
        raise RunError(f"{location}: the column {extended!r} is of an extension type, which is not read")
    return table


def read_tables(locations: Sequence[Location], columns: list[str] | None, ahead: int) -> Iterator[pa.Table]:
    """Read Parquet files in this order, `ahead` of them before they are asked for: each costs S3 a few round trips."""
    with ThreadPoolExecutor(ahead) as threads:
        pending: deque[Future[pa.Table]] = deque()
        for location in locations:
            pending.append(threads.submit(read_table, location, columns))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def read_model(location: Location, kind: type[M], what: str) -> M:
    """The record in a JSON file; raises UsageError if it is not `what`."""
    try:
        return kind.model_validate_json(location.read_bytes())
    except ValidationError as error:
        raise UsageError(f"{location} is not {what}: {error.errors()[0]['msg']}") from None


def write_table(location: Location, table: pa.Table) -> None:
    """Write one Parquet file, whole or not at all."""
    location.replace(encode_table(table))


def encode_table(table: pa.Table) -> pa.Buffer:
    """The bytes of a Parquet file (zstd)."""
    sink = pa.BufferOutputStream()
    # Floats hardly repeat: dictionaries of them take most of the time, and a third more bytes.
    pq.write_table(table, sink, compression="zstd", use_dictionary=False)
    return sink.getvalue()
