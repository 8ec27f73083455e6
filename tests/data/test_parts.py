"""Images of few bytes that a decoder would go through for seconds, or that take a GB: refused undecoded."""

import io
import re
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFile

from ldm_scale.data.images import BadImage, open_image
from tests.data.pngs import chunk

MAX_PIXELS = 64_000_000
# A busy machine's time for what takes milliseconds; each of these took several seconds.
SECONDS = 1


def encode(kind: str, **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


PNG = encode("PNG")
JPEG = encode("JPEG")
PROGRESSIVE = encode("JPEG", progressive=True)
SCAN = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]


def with_scans(count: int) -> bytes:
    """A progressive JPEG with its last scan so many times again."""
    return PROGRESSIVE[:-2] + SCAN * count + PROGRESSIVE[-2:]


def with_segments(kind: int, count: int, body: bytes = b"") -> bytes:
    """A JPEG with so many segments before its own."""
    segment = bytes([0xFF, kind]) + struct.pack(">H", 2 + len(body)) + body
    return JPEG[:2] + segment * count + JPEG[2:]


def with_chunks(kind: bytes, count: int, place: int = 33, body: bytes = b"") -> bytes:
    """A PNG with so many chunks at a place: 33 is behind the header, -12 in front of the end."""
    return PNG[:place] + chunk(kind, body) * count + PNG[place:]


def tall(rows: int) -> bytes:
    """A PNG of one black column."""
    header = struct.pack(">IIBBBBB", 1, rows, 1, 0, 0, 0, 0)
    squeeze = zlib.compressobj(9)
    data = b"".join(squeeze.compress(bytes(2_000_000)) for _ in range(rows // 1_000_000)) + squeeze.flush()
    return PNG[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


EXIF = b"Exif\0\0" + bytes(65_527)
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "4,000 scans": (lambda: with_scans(4000), "a JPEG of more than 100 scans"),
    "101 scans": (lambda: with_scans(101), "a JPEG of more than 100 scans"),
    "scans behind a marker without a length": (
        lambda: PROGRESSIVE[:-2] + b"\xff\x01" + SCAN * 101 + PROGRESSIVE[-2:],
        "a JPEG of more than 100 scans",
    ),
    "33 MB of Exif": (lambda: with_segments(0xE1, 501, EXIF), "a JPEG of more than 500 segments"),
    "segments of nothing": (lambda: with_segments(0xE0, 10**6), "a JPEG of more than 500 segments"),
    "ends before it begins": (lambda: JPEG[:2] + b"\xff\xd9" * 501 + JPEG[2:], "a JPEG of more than 500 segments"),
    "bytes between segments": (lambda: JPEG[:20] + bytes(10**7) + JPEG[20:], "or 65536 bytes between them"),
    "fill bytes": (lambda: JPEG[:2] + b"\xff" * 10**7 + JPEG[2:], "or 65536 bytes between them"),
    "chunks of nothing": (lambda: with_chunks(b"aaAa", 10**5), "a PNG of more than .* 1000 without pixels"),
    "chunks behind the pixels": (lambda: with_chunks(b"aaAa", 10**5, -12), "a PNG of more than"),
    "chunks of no pixels": (lambda: with_chunks(b"IDAT", 10**5), "a PNG of more than 100000 chunks"),
    "profiles that inflate": (
        lambda: with_chunks(b"iCCP", 1001, body=b"x\0\0" + zlib.compress(bytes(1 << 20))),
        "a PNG of more than",
    ),
    "a column of 64 million rows": (lambda: tall(64_000_000), r"more than 4000000 rows of pixels \(1 x 64000000\)"),
}


@pytest.mark.parametrize(("make", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_an_image_of_too_many_parts_is_refused_undecoded(
    make: Callable[[], bytes], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(self: ImageFile.ImageFile) -> None:
        raise AssertionError("decoded")

    data = make()
    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    start = time.monotonic()
    with pytest.raises(BadImage, match=reason):
        open_image(data, MAX_PIXELS)
    assert time.monotonic() - start < SECONDS


def small_chunks() -> bytes:
    """A PNG whose pixels come a byte at a time, as an encoder may write them."""
    start = PNG.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", PNG, start)
    pixels = PNG[start + 8 : start + 8 + length]
    return PNG[:start] + b"".join(chunk(b"IDAT", bytes([byte])) for byte in pixels) + PNG[start + 12 + length :]


SOUND: dict[str, bytes] = {
    "progressive": PROGRESSIVE,
    "a hundred scans": with_scans(100 - len(re.findall(b"\xff\xda", PROGRESSIVE))),
    "restarts": encode("JPEG", restart_marker_blocks=1),
    "a colour profile of 16 MB": encode("JPEG", icc_profile=bytes(255 * 65_519)),
    "fill bytes": JPEG[:2] + b"\xff" * 1000 + JPEG[2:],
    "another image behind the end": JPEG + PROGRESSIVE * 500,
    "a film behind the end": JPEG + b"\xff\xda" * 1000,
    "a picture in its metadata": with_segments(0xE1, 1, b"Exif\0\0" + b"\xff\xda\0\2" * 1000),
    "small chunks": small_chunks(),
    "a thousand texts": with_chunks(b"tEXt", 900, body=b"Comment\0x"),
    "interlaced": encode("PNG", interlace=True),
}


@pytest.mark.parametrize("data", SOUND.values(), ids=SOUND)
def test_what_encoders_write_is_read(data: bytes) -> None:
    assert open_image(data, MAX_PIXELS).size == (64, 64)


def test_an_image_may_have_as_many_rows_as_a_jpeg() -> None:
    for size in ((1, 65_500), (65_500, 1)):
        buffer = io.BytesIO()
        Image.new("L", size).save(buffer, "JPEG")
        assert open_image(buffer.getvalue(), 65_535).size == size
    with pytest.raises(BadImage, match="more than 65535 rows"):
        open_image(tall(1_000_000), 1_000_000)
