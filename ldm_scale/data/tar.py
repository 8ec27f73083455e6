"""The one way to walk through a tar, from its first header to its last byte.

tarfile follows whatever a header declares, and takes a damaged header, a lone block of zeros and the end of the file
for the end of the tar, without a look at what follows: of two tars joined into one, or of a download with a gap, it
would give the first part without a word. Here no header is followed beyond the bytes that are there.
"""

import io
import tarfile
from collections.abc import Iterator
from typing import IO, Self

from ldm_scale.errors import RunError, UsageError, one_line

# Names and sizes that do not fit in a header's 512 bytes have a header of their own, which is read whole; these are the
# most bytes that all such headers of one entry take.
EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, b"X", tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
MAX_EXTENDED = 1 << 20
# What an extended header may say that matters here; times, owners and attributes are passed over.
NAMES = ("GNU.sparse.name", "path")
SIZE = "size"
SPARSE = "GNU.sparse."
# The most digits of a number in an extended header.
DIGITS = 20
# Two blocks of zeros end a tar; it is filled up with zeros to whole records, 20 blocks if no other size was asked for.
END_MARK = 2 * tarfile.BLOCKSIZE
RECORDS = (tarfile.RECORDSIZE, *(tarfile.BLOCKSIZE << power for power in range(12)))
CHUNK = 1 << 20


class _Archive(tarfile.TarFile):
    """A tar that knows where it ends, and what the extended headers of the entry at hand have taken."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.end = stream.seek(0, io.SEEK_END)
        self.extended = 0
        stream.seek(0)
        super().__init__(fileobj=stream, tarinfo=_Header, encoding="utf-8", errors="backslashreplace")

    def spend(self, size: int) -> None:
        """Take so many bytes from what an entry's extended headers may have."""
        self.extended += size
        if self.extended > MAX_EXTENDED:
            raise tarfile.ReadError(f"an entry whose headers have more than {MAX_EXTENDED} bytes")


class _Header(tarfile.TarInfo):
    """An entry's header, in the steps that tarfile lets a subclass take: nothing in it is followed unchecked."""

    def _proc_member(self, archive: _Archive) -> Self:
        if self.size < 0:
            raise tarfile.ReadError(f"a header at byte {self.offset} of {self.size} bytes")
        if self.type in EXTENDED:
            archive.spend(self.size)
        header: Self = super()._proc_member(archive)  # type: ignore[misc]
        _check(header, archive)
        return header

    def _proc_pax(self, archive: _Archive) -> Self:
        """Read an extended header, and what it says of the entry that follows.

        tarfile's own way takes time that grows with the square of the header, and memory as well.
        """
        records = dict(_records(archive.fileobj.read(self._block(self.size))[: self.size]))  # type: ignore[attr-defined]
        header = self.fromtarfile(archive)
        if self.type == tarfile.XGLTYPE:
            if records:
                raise tarfile.ReadError(f"a header at byte {self.offset} gives all entries one name or size")
            return header
        header.offset = self.offset
        header.name = next((records[key] for key in NAMES if key in records), header.name).rstrip("/")
        if any(key.startswith(SPARSE) for key in records):
            header.sparse = []  # type: ignore[assignment]
        if SIZE in records:
            header.size = _number(records[SIZE].encode())
            follows = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
            archive.offset = header.offset_data + (self._block(header.size) if follows else 0)  # type: ignore[attr-defined]
        return header

    def _proc_sparse(self, archive: _Archive) -> Self:
        """Pass over the map of a file with gaps, which may go on in blocks of its own: such files are not read."""
        _, goes_on, _ = self._sparse_structs  # type: ignore[attr-defined]
        while goes_on:
            archive.spend(tarfile.BLOCKSIZE)
            goes_on = archive.fileobj.read(tarfile.BLOCKSIZE)[504]
        self.sparse = []  # type: ignore[assignment]
        self.offset_data = archive.fileobj.tell()
        archive.offset = self.offset_data + self._block(self.size)  # type: ignore[attr-defined]
        return self


def _number(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > DIGITS:
        raise tarfile.ReadError(f"an extended header with {digits[:DIGITS]!r} in place of a number")
    return int(digits)


def _records(data: bytes) -> Iterator[tuple[str, str]]:
    r"""What matters of an extended header's records, `LENGTH KEY=VALUE\n`, which fill it to its last byte."""
    data = data.rstrip(b"\0")
    start = 0
    while start < len(data):
        digits = data[start : start + DIGITS + 1].partition(b" ")[0]
        record = data[start : start + _number(digits)]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not equals or not record.endswith(b"\n") or len(record) < int(digits):
            raise tarfile.ReadError("an extended header whose records do not fit its length")
        name = key.decode(errors="backslashreplace")
        if name in NAMES or name == SIZE or name.startswith(SPARSE):
            yield name, value.decode(errors="backslashreplace")
        start += len(record)


def _check(header: _Header, archive: _Archive) -> None:
    """Raise ReadError if an entry does not lie, with all the bytes that its headers declare, in front of the end."""
    start, following = header.offset_data, archive.offset
    plain = header.isreg() and not header.issparse()
    if plain and following != start + header._block(header.size):  # type: ignore[attr-defined]
        raise tarfile.ReadError(f"{header.name[:100]!r} at byte {header.offset} has two sizes")
    if not start <= following <= archive.end:
        raise tarfile.ReadError(
            f"{header.name[:100]!r} at byte {header.offset} declares {following - start} bytes, of which "
            f"{max(archive.end - start, 0)} are there"
        )


def walk_tar(stream: IO[bytes]) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    r"""The archive with each of its entries but directories, in order; bytes of a name that are not UTF-8 become \xff.

    Args:
        stream: a tar from its first byte to its last, open for random access.

    Raises:
        tarfile.ReadError: The stream is no uncompressed tar, ends before its end mark, has more than that behind it, or
            a header declares what is not there.
    """
    try:
        with _Archive(stream) as archive:
            for header in archive:
                archive.extended = 0
                if not header.isdir():
                    yield archive, header
                # tarfile would keep every header.
                archive.members = []  # type: ignore[attr-defined]
            _check_tail(archive)
    except (OSError, tarfile.TarError, RunError, UsageError):
        raise
    except Exception as error:
        # tarfile raises many kinds on headers made to mislead it.
        raise tarfile.ReadError(f"a header is damaged: {one_line(error)}") from error


def read_file(archive: tarfile.TarFile, header: tarfile.TarInfo) -> bytes:
    """The bytes of a plain file; raises ReadError if they are no longer there."""
    assert archive.fileobj is not None
    archive.fileobj.seek(header.offset_data)
    data = archive.fileobj.read(header.size)
    if len(data) < header.size:
        raise tarfile.ReadError("it has become shorter while it was read")
    return bytes(data)


def _check_tail(archive: _Archive) -> None:
    """Read on from where no other header was found, to the last byte."""
    mark = archive.offset
    archive.fileobj.seek(mark)
    first = archive.fileobj.read(tarfile.BLOCKSIZE)
    if first != bytes(tarfile.BLOCKSIZE):
        what = "a header is damaged" if len(first) == tarfile.BLOCKSIZE else "it ends without an end mark"
        raise tarfile.ReadError(f"{what} at byte {mark}")
    size = mark + tarfile.BLOCKSIZE
    while chunk := archive.fileobj.read(CHUNK):
        if rest := chunk.lstrip(b"\0"):
            raise tarfile.ReadError(
                f"zeros at byte {mark} end it, but more follows at byte {size + len(chunk) - len(rest)}: several tars "
                "in one file, or a part that was never written; fetch or make it again"
            )
        size += len(chunk)
    if not any(size % record == 0 and size - mark < END_MARK + record for record in RECORDS):
        raise tarfile.ReadError(
            f"it holds nothing but zeros from byte {mark} to its end at byte {size}, more than an end mark: a part "
            "that was never written; fetch or make it again"
        )
