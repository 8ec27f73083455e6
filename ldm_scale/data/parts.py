"""The parts of an encoded image, counted before a decoder goes through them one by one.

What an image costs is bounded by its pixels and its bytes only if each part has many of these: a JPEG of 30 KB may have
thousands of scans over all of its pixels, and a PNG millions of chunks of nothing.
"""

import re
import struct

# A JPEG of 64 megapixels takes 0.1 s a scan; encoders make ten or so.
SCANS = 100
# Of a JPEG besides its scans: tables, and metadata, of which a colour profile has 255 at most; and bytes between them.
SEGMENTS = 500
STRAY = 1 << 16
# Of a PNG, and those of them that hold no pixels. Encoders write pixels in chunks of 8 KB and more.
CHUNKS = 100_000
OTHER_CHUNKS = 1000

_PNG = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IDAT", b"fdAT", b"fcTL")
_JPEG = b"\xff\xd8\xff"
# Any but those that begin no segment: in a scan, 0xff 0x00 is a byte of it, and 0xd0 to 0xd7 number its parts; 0x01 is
# passed over by decoders, without the length that all others have.
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA


def check_parts(data: bytes) -> None:
    """Raise ValueError if an encoded image has more parts than a decoder should go through."""
    if data.startswith(_PNG):
        _check_chunks(data)
    elif data.startswith(_JPEG):
        _check_segments(data)


def _check_chunks(data: bytes) -> None:
    start, count, others = len(_PNG), 0, 0
    kind = b""
    while kind != b"IEND" and start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        # Length, kind and checksum have four bytes each.
        start += 12 + length
        count += 1
        others += kind not in _PIXELS
        if count > CHUNKS or others > OTHER_CHUNKS:
            raise ValueError(f"a PNG of more than {CHUNKS} chunks, or {OTHER_CHUNKS} without pixels")


def _check_segments(data: bytes) -> None:
    start, scans, others, stray = 2, 0, 0, 0
    while match := _MARKER.search(data, start):
        kind = data[match.end() - 1]
        if kind == _END and scans:
            return
        stray += 0 if scans else match.start() - start
        scans += kind == _SCAN
        others += kind != _SCAN
        if scans > SCANS:
            raise ValueError(f"a JPEG of more than {SCANS} scans")
        if others > SEGMENTS or stray > STRAY:
            raise ValueError(f"a JPEG of more than {SEGMENTS} segments besides scans, or {STRAY} bytes between them")
        length = 0 if kind in (_START, _END) else int.from_bytes(data[match.end() : match.end() + 2], "big")
        start = match.end() + length
