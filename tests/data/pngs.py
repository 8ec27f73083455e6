"""PNG files made by hand."""

import struct
import zlib

import numpy as np


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(values: np.ndarray, depth: int, colour: int, clear: tuple[int, ...] | None = None) -> bytes:
    """A PNG of values (height, width, channels) of `depth` bits, of a colour type by its number, without filters.

    clear: the transparent level of each channel, if any.
    """
    height, width, _ = values.shape
    if depth < 8:
        places = np.arange(depth)[::-1]
        rows = [np.packbits((row[:, None] >> places & 1).astype(np.uint8)).tobytes() for row in values[..., 0]]
    else:
        rows = [row.astype(f">u{depth // 8}").tobytes() for row in values]
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
        + (chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear)) if clear else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
        + chunk(b"IEND", b"")
    )


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a few bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )
