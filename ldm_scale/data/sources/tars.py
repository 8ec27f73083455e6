"""Tar files that are read without unpacking: where each file lies in them, however deep."""

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import IO

from ldm_scale.data.tar import walk_tar
from ldm_scale.errors import UsageError, one_line
from ldm_scale.files.storage import Location


@dataclass(frozen=True, slots=True)
class TarredFile:
    """One file inside a tar: its bytes lie there as they are, from `offset` on; small ones may be kept as `content`.

    is_plain: whether it is no link, device or sparse file, which stand for no bytes.
    """

    tar: Location
    name: str
    offset: int
    length: int
    content: bytes | None = None
    is_plain: bool = True

    def __str__(self) -> str:
        return f"{self.tar} {self.name}"

    def size(self) -> int:
        return self.length

    def read_bytes(self) -> bytes:
        """The file's bytes; raises OSError if the tar ends before them."""
        if self.content is not None:
            return self.content
        with self.tar.open() as file:
            file.seek(self.offset)
            data = bytes(file.read(self.length))
        if len(data) < self.length:
            raise OSError("the tar is shorter than when it was listed")
        return data


def _walk(tar: Location, file: IO[bytes], start: int, nested: bool, keep: Mapping[str, int]) -> Iterator[TarredFile]:
    """The files of the tar that begins at byte `start` of `tar` and is all of `file`."""
    for archive, header in walk_tar(file):
        content = archive.extractfile(header) if header.isreg() and not header.issparse() else None
        if content is None:
            yield TarredFile(tar, header.name, 0, 0, b"", is_plain=False)
            continue
        offset = start + header.offset_data
        if nested:
            folder = header.name.removesuffix(".tar")
            for inner in _walk(tar, content, offset, False, keep):
                yield replace(inner, name=f"{folder}/{inner.name}")
        else:
            suffix = header.name.rsplit(".", 1)[-1].lower()
            kept = content.read() if header.size <= keep.get(suffix, -1) else None
            yield TarredFile(tar, header.name, offset, header.size, kept)


def tarred_files(
    tar: Location, nested: bool = False, keep: Mapping[str, int] = MappingProxyType({})
) -> list[TarredFile]:
    """Everything but the folders of an uncompressed tar, in its order.

    nested: it is a tar of tars, each of which stands for a folder. keep: suffixes of files whose content is kept if it
    has at most so many bytes.

    Raises:
        UsageError: The tar, or one within, is none or is incomplete.
    """
    try:
        # Headers lie between images: on S3 a request for each would cost more than reading past the images.
        with tar.open_stream() as file:
            return list(_walk(tar, file, 0, nested, keep))
    except (tarfile.TarError, EOFError) as error:
        raise UsageError(f"{tar} is no complete tar file: {one_line(error)}") from None
