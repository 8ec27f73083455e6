"""Tars made by hand: headers that declare what they like."""

import tarfile
from collections.abc import Iterable
from pathlib import Path

END = bytes(2 * tarfile.BLOCKSIZE)
EXBI = 1 << 60


def with_checksum(header: bytes) -> bytes:
    """A header of 512 bytes with the checksum that fits it."""
    total = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
    return header[:148] + b"%06o\0 " % total + header[156:]


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, **places: bytes) -> bytes:
    """A GNU header that declares a size, whatever follows; `at_386=b"..."` puts bytes at that place."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    block = info.tobuf(tarfile.GNU_FORMAT)
    for place, data in places.items():
        start = int(place.removeprefix("at_"))
        block = block[:start] + data + block[start + len(data) :]
    return with_checksum(block)


def padded(data: bytes) -> bytes:
    """Bytes filled up to whole blocks."""
    return data + bytes(-len(data) % tarfile.BLOCKSIZE)


def record(key: str, value: str) -> bytes:
    """A record of an extended header, with the length that fits it."""
    rest = f" {key}={value}\n".encode()
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def extended(data: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """An extended header of these bytes."""
    return header("pax", len(data), kind) + padded(data)


def write_sparsely(path: Path, files: Iterable[tuple[str, int]]) -> None:
    """A tar of files of zeros, which take no room on the disk."""
    with path.open("wb") as file:
        for name, size in files:
            file.write(header(name, size))
            file.seek(size + -size % tarfile.BLOCKSIZE, 1)
        file.write(END)
