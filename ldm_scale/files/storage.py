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
from typing import IO, Any, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from filelock import FileLock
from pydantic import BaseModel, ValidationError

from ldm_scale.errors import GOES_ON, ContentError, ExistsError, RunError, UsageError, one_line
from ldm_scale.files import s3
from ldm_scale.files.space import MORE_ROOM, check_room, room_at

# Bytes that one request for a part of a stream asks for.
BUFFER = 8 << 20
# Bytes of a local shard that are read at a time.
READ_AHEAD = 128 << 10
# The most bytes of a record, a list of keys, or another file that is parsed whole: that takes up to 40 times as much
# memory. The keys of ImageNet have 46 MB.
MOST = 128 << 20

# Bytes that any Parquet file may take in memory, and times its own size that it may take beyond; and rows that are read
# before that is looked at.
LEAST_TABLE = 64 << 20
INFLATION = 100
ROWS = 512

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
# What a file system without hard links (exFAT, some of NFS and FUSE) says to one.
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
# Hears of what a listing passes over: the rule, and the name.
Skip = Callable[[str, str], object]
# Is told the size of a file before it is read, and raises an error if that is too much.
CheckSize = Callable[[int], object]
BROKEN_LINK = "a link that leads nowhere"
SPECIAL = "neither a file nor a folder"


def refuse(rule: str, name: str) -> None:
    """A listing's `skip` that passes over nothing: raises RunError."""
    raise RunError(f"{name} is {rule}")


def allow(size: int) -> None:
    """A check of sizes that refuses none."""


class _Unchanged(io.FileIO):
    """A local file of which nothing is read that was not there when it was opened.

    The file stays the one that was opened, whatever its name leads to later; a write into it changes its times.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._opened = self._state()
        self.size = self._opened[0]

    def _state(self) -> tuple[int, int, int]:
        status = os.fstat(self.fileno())
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def _check(self) -> None:
        if self._state() != self._opened:
            raise OSError("it changed while it was read")

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        self._check()
        return count

    def readall(self) -> bytes:
        data = super().readall()
        self._check()
        return data


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

    def expect(self, what: str, folder: bool = True) -> None:
        """Raise UsageError unless this is a folder, or else a file; what: the words before its address."""
        if not (self.is_dir() if folder else self.is_file()):
            other = self.is_file() if folder else self.is_dir()
            kinds = ("a file, not a folder", "a folder, not a file")
            raise UsageError(f"{what} {self} {f'is {kinds[not folder]}' if other else 'does not exist'}")

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
        if self.is_local:
            found = [Location(path, status.st_size) for path, status in _stats(self.uri, recursive, skip)]
        else:
            bucket, prefix = self._inside
            entries = s3.list_objects(bucket, prefix) if recursive else s3.list_folder(bucket, prefix)[0]
            found = [Location(f"s3://{bucket}/{entry.key}", entry.size) for entry in entries]
        return sorted((location for location in found if location.uri.endswith(suffix)), key=str)

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
    def on_disk(self, sha256: str | None = None, check: CheckSize = allow) -> Iterator[tuple[BinaryIO, str]]:
        """The whole file on this machine's disk, opened at its first byte, and its SHA-256.

        What comes from S3 is there for the length of the block, in the folder that TMPDIR names; if it has not the
        `sha256` that is expected, it is fetched once more. `check` is told the file's size before it is read. A local
        file is read where it lies: if it changes meanwhile, that is an OSError.
        """
        with self._open_unchanged(check) if self.is_local else self._temporary() as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest() if self.is_local else self._copy(file, check)
            if not self.is_local and sha256 is not None and digest != sha256:
                # An object may have no checksum by which the client would notice a fault on the way.
                digest = self._copy(file, check)
            file.seek(0)
            yield file, digest

    def _open_unchanged(self, check: CheckSize) -> io.BufferedReader:
        mode = self._mode()
        if mode and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            # A pipe would be waited for, a device may have no end.
            raise OSError(f"it is {SPECIAL}")
        file = _Unchanged(self.uri)
        check(file.size)
        return io.BufferedReader(file, READ_AHEAD)

    def _copy(self, file: IO[bytes], check: CheckSize) -> str:
        folder = tempfile.gettempdir()

        def check_both(size: int) -> None:
            check(size)
            check_room(folder, size, remedy=MORE_ROOM)

        with room_at(folder, MORE_ROOM):
            return s3.download(*self._object, file, check_both)

    @staticmethod
    def _temporary() -> io.BufferedRandom:
        with room_at(tempfile.gettempdir(), MORE_ROOM):
            return tempfile.TemporaryFile()

    def download(self, file: BinaryIO) -> None:
        """Copy a file from S3 into an open one; a transient fault starts it from byte 0."""
        s3.download(*self._object, file, allow)

    def read_bytes(self, most: int | None = None) -> bytes:
        """A whole file, as it is at one moment; raises UsageError if it has more than `most` bytes."""

        def check(size: int) -> None:
            if most is not None and size > most:
                raise UsageError(f"{self} has {size} bytes; of such a file at most {most} are read")

        if self.is_local:
            check(self._path.stat().st_size)
            return self._path.read_bytes()
        buffer = io.BytesIO()
        s3.download(*self._object, buffer, check)
        return buffer.getvalue()

    def read_text(self) -> str:
        """The text of a file that is parsed whole; raises UsageError if it has more than MOST bytes."""
        return self.read_bytes(MOST).decode("utf-8")

    def sha256(self) -> str:
        """Hex digest of a file's bytes."""
        with self.open_stream() as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

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
        with room_at(self.uri, f"then {GOES_ON}"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = f"{self.uri}.{uuid.uuid4().hex}.partial"
        try:
            # A second name takes room as well.
            with room_at(self.uri, f"then {GOES_ON}"):
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

    def check_new(self, option: str) -> None:
        """Raise UsageError, which names the option, if this folder holds something or cannot be written to."""
        self.check_place()
        if not self.is_empty():
            raise UsageError(f"{self} is not empty; give a new {option} folder, nothing is overwritten")

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


def read_table(
    location: Location, columns: list[str] | None = None, schema: pa.Schema | None = None, most: int | None = None
) -> pa.Table:
    """Read one Parquet file, or some of its columns.

    Args:
        location: of the file.
        columns: to read; all by default.
        schema: what the file must have at least: these columns, of these types, and these metadata.
        most: rows that it may say it has.

    Raises:
        ContentError: It is no whole Parquet file, has another schema or not these columns, each once; it names a type
            of values that may be pickles, for looking at them would run them; or its values take far more memory than
            its size explains.
    """
    try:
        with location.open() as stream:
            size = stream.seek(0, io.SEEK_END)
            file = pq.ParquetFile(stream, pre_buffer=True)
            chosen = _chosen(location, file.schema_arrow, columns)
            if schema is not None and (fault := _differs(file.schema_arrow, schema)):
                raise ContentError(f"{location}: {fault}")
            groups = (file.metadata.row_group(number).num_rows for number in range(file.num_row_groups))
            if most is not None and (rows := max(sum(groups), file.metadata.num_rows)) > most:
                raise ContentError(f"{location}: it has {rows} rows, of {most} that there can be")
            return pa.Table.from_batches(batches_within(size, file, chosen.names, location), chosen)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ContentError(f"{location} is no whole Parquet file: {one_line(error)}") from error


def _chosen(location: Location, schema: pa.Schema, columns: list[str] | None) -> pa.Schema:
    """The schema of these columns, or of all; errors as of read_table."""
    if extended := next((field.name for field in schema if _is_extended(field.type)), None):
        raise ContentError(f"{location}: the column {extended!r} is of an extension type, which is not read")
    names = schema.names if columns is None else columns
    if absent := next((name for name in names if schema.get_field_index(name) < 0), None):
        raise ContentError(f"{location}: no column {absent!r}, or several")
    return pa.schema([schema.field(name) for name in names], schema.metadata)


def batches_within(size: int, file: pq.ParquetFile, names: list[str], location: Location) -> Iterator[pa.RecordBatch]:
    """Some columns of all the rows that a file of so many bytes says it has.

    Raises:
        ContentError: Rows are missing, or take far more memory than the size explains: one text may be in all of them.
    """
    rows = missing = file.metadata.num_rows
    budget = LEAST_TABLE + INFLATION * size - rows
    for batch in file.iter_batches(ROWS, columns=names) if budget >= 0 else ():
        budget -= batch.nbytes
        if budget < 0:
            break
        missing -= len(batch)
        yield batch
    if budget < 0:
        raise ContentError(f"{location}: {rows} rows that take more memory than the file's size explains")
    if missing:
        raise ContentError(f"{location}: {rows - missing} of the {rows} rows that it should have")


def _differs(found: pa.Schema, wanted: pa.Schema) -> str | None:
    """What a schema lacks of another one."""
    for column in wanted:
        place = found.get_field_index(column.name)
        if place < 0:
            return f"it has no column {column.name!r}"
        if found.field(place).type != column.type:
            return f"the column {column.name!r} is {found.field(place).type}, not {column.type}"
    for key, value in (wanted.metadata or {}).items():
        if (other := (found.metadata or {}).get(key)) != value:
            return f"its {key.decode()} is {_shown(other)}, not {_shown(value)}"
    return None


def _shown(value: bytes | None) -> str:
    return "missing" if value is None else value[:12].decode(errors="replace")


def read_ahead(read: Callable[[Location], T], locations: Sequence[Location], ahead: int) -> Iterator[T]:
    """Read files in this order, `ahead` of them before they are asked for: each costs S3 a few round trips."""
    with ThreadPoolExecutor(ahead) as threads:
        pending: deque[Future[T]] = deque()
        for location in locations:
            pending.append(threads.submit(read, location))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def read_model(location: Location, kind: type[M], what: str, most: int | None = MOST) -> M:
    """The record in a JSON file; raises UsageError if it is not `what`, or has more than `most` bytes."""
    try:
        return kind.model_validate_json(location.read_bytes(most))
    except ValidationError as error:
        raise UsageError(f"{location} is not {what}: {error.errors()[0]['msg']}") from None


def encode_table(table: pa.Table) -> pa.Buffer:
    """The bytes of a Parquet file (zstd)."""
    sink = pa.BufferOutputStream()
    # Floats hardly repeat: dictionaries of them take most of the time, and a third more bytes. Their first bytes do,
    # which zstd finds if these lie side by side.
    lists = [f"{field.name}.list.element" for field in table.schema if pa.types.is_fixed_size_list(field.type)]
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, use_byte_stream_split=lists or False)
    return sink.getvalue()
