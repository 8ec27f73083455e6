"""The one way to walk through a tar, from its first header to its last byte.

tarfile takes a damaged header, a lone block of zeros and the end of the file for the end of the tar, and does not look
at what follows: of two tars joined into one, or of a download with a gap, it would give the first part without a word.
"""

import tarfile
from collections.abc import Iterator
from typing import IO, Literal, Self

from ldm_scale.errors import one_line

# Names and attributes that do not fit in a header's 512 bytes have an entry of their own, which tarfile reads whole.
EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, b"X", tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
MAX_EXTENDED = 1 << 20
# Two blocks of zeros end a tar; it is filled up with zeros to whole records, 20 blocks if no other size was asked for.
END_MARK = 2 * tarfile.BLOCKSIZE
RECORDS = (tarfile.RECORDSIZE, *(tarfile.BLOCKSIZE << power for power in range(12)))
CHUNK = 1 << 20


class _Header(tarfile.TarInfo):
    """An entry's header; a damaged, missing or outsized one is an error, even if tarfile would stop in silence."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf == bytes(tarfile.BLOCKSIZE):  # the end mark
                raise
            raise tarfile.ReadError(f"a header is damaged or missing: {one_line(error)}") from None
        if header.size < 0 or (header.type in EXTENDED and header.size > MAX_EXTENDED):
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header


def walk_tar(stream: IO[bytes], mode: Literal["r|", "r:"]) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    r"""The archive with each of its entries but directories, in order; bytes of a name that are not UTF-8 become \xff.

    Args:
        stream: a tar from its first byte to its last.
        mode: "r|" reads on and on, "r:" leaves out what is not asked for.

    Raises:
        tarfile.ReadError: The stream is no uncompressed tar, ends before its end mark, or has more than that behind it.
    """
    try:
        with tarfile.open(
            fileobj=stream, mode=mode, tarinfo=_Header, encoding="utf-8", errors="backslashreplace"
        ) as archive:
            for header in archive:
                if not header.isdir():
                    yield archive, header
                # tarfile would keep every header.
                archive.members = []  # type: ignore[attr-defined]
            _check_tail(archive)
    except (OSError, tarfile.TarError):
        raise
    except Exception as error:
        # tarfile raises many kinds on headers made to mislead it.
        raise tarfile.ReadError(f"a header is damaged: {one_line(error)}") from error


def _check_tail(archive: tarfile.TarFile) -> None:
    """Read on from the first block of zeros, which was taken for the end mark, to the last byte."""
    mark = archive.offset
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
