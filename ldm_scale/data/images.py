"""Encoded image bytes to arrays the models take, the way the papers' loaders do it (Pillow)."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from ldm_scale.config.data import ImageConfig
from ldm_scale.data.parts import check_parts
from ldm_scale.errors import one_line
from ldm_scale.schema import FORMATS

# The formats of images in shards, and those that a pack makes PNGs of; how Pillow names them.
STORED = FORMATS
PACKED = (*STORED, "TIFF", "GIF", "BMP")
_SIGNATURES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
# Bytes that tell a format; the sizes of a BMP's second header, without which text that begins with BM would be one.
SIGNATURE = 18
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
# Formats that nothing here reads, which are images all the same: the beginning of JPEG XL's and JPEG 2000's files, and
# the brands of HEIF's and AVIF's.
_FOREIGN = (b"\xff\n", b"\0\0\0\x0cJXL ", b"\0\0\0\x0cjP  ", b"8BPS")
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1")
# Modes that a PNG holds as they are.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")

# A row of pixels takes memory of its own. An image may have as many rows as a JPEG can have, or one for so many pixels
# of the limit.
LEAST_ROWS = 65_535
PIXELS_A_ROW = 16

# For PNGs of so many bits, the most that a level has and what it is in Pillow's 8 bits; by Pillow's name of them.
LEVELS = {"L;2": (3, 85), "L;4": (15, 17), "L": (255, 1)}

# What 16-bit greys are in 8 bits; lower and higher numbers are taken as the first and the last.
GREYS = [round(level / 257) for level in range(1 << 16)]


class BadImage(Exception):
    """Bytes that cannot be an image of the data set; the message is the reject's reason."""


def format_of(start: bytes) -> str | None:
    """The format of an image, one of PACKED, by its first bytes; None if they are of none."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[:2] == b"BM" and int.from_bytes(start[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return next((name for signature, name in _SIGNATURES.items() if start.startswith(signature)), None)


def is_image(start: bytes) -> bool:
    """Whether some first bytes are those of an image, also of a format that is only rejected."""
    is_foreign = start.startswith(_FOREIGN) or (start[4:8] == b"ftyp" and start[8:12] in _BRANDS)
    return is_foreign or format_of(start) is not None


def open_image(data: bytes, max_pixels: int, formats: tuple[str, ...] = STORED) -> Image.Image:
    """The decoded image in 8 bits a channel; EXIF rotation is left as stored, as the papers leave it.

    16-bit grey is scaled, which Pillow itself would clip to nearly all white; other 16-bit channels lose their low
    byte, as Pillow has it.

    Raises:
        BadImage: The bytes are empty, broken, of another format, or an image of more than `max_pixels`, or of more rows
            or parts than such an image has, left undecoded.
    """
    with _faults_named(formats):
        image = _by_header(data, max_pixels, formats)
        stored = str(image.tile[0].args) if image.format == "PNG" and image.tile else ""
        image.load()
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise BadImage(f"pixels of {kind} numbers, whose black and white nothing tells")
    return _in_8_bits(image, stored)


def size_of(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Width and height of an image by its header alone; raises BadImage as open_image does, if that shows it."""
    with _faults_named(STORED):
        return _by_header(data, max_pixels, STORED).size


@contextmanager
def _faults_named(formats: tuple[str, ...]) -> Iterator[None]:
    """Whatever Pillow raises, on bytes made to mislead it as well, as a BadImage; its own warnings are not shown."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except BadImage:
        raise
    except Exception as error:
        # Pillow names the buffer by its address, which no two runs share.
        wanted = f"no {', '.join(formats[:-1])} or {formats[-1]}".replace("WEBP", "WebP")
        detail = wanted if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise BadImage(f"cannot be decoded: {detail}") from error


def _by_header(data: bytes, max_pixels: int, formats: tuple[str, ...]) -> ImageFile.ImageFile:
    """An image that is not decoded yet, and would not take too much memory."""
    if not data:
        raise BadImage("no image")
    check_parts(data)
    image = Image.open(io.BytesIO(data), formats=formats)
    if image.width * image.height > max_pixels:
        raise BadImage(f"more than max_pixels = {max_pixels} ({image.width} x {image.height})")
    if image.height > (rows := max(LEAST_ROWS, max_pixels // PIXELS_A_ROW)):
        raise BadImage(f"more than {rows} rows of pixels ({image.width} x {image.height})")
    return image


def _in_8_bits(image: Image.Image, stored: str) -> Image.Image:
    """The image with 8 bits a channel, and its transparent level, if it has one, in these; `stored`: as in LEVELS."""
    clear = image.info.get("transparency")
    if image.mode.startswith("I"):
        alpha = None if clear is None else Image.fromarray(np.uint8(255) * (np.asarray(image) != clear))
        image = image.convert("I").point(GREYS, "L")
        if alpha is not None:
            image.putalpha(alpha)
    elif clear is not None and stored in LEVELS:
        most, step = LEVELS[stored]
        image.info["transparency"] = (clear & most) * step
    elif clear is not None and stored.startswith("RGB"):
        image.info["transparency"] = tuple(level >> 8 if stored == "RGB;16B" else level & 255 for level in clear)
    return image


def _center_crop(image: Image.Image, size: int) -> Image.Image:
    """The middle of an image, as torchvision's CenterCrop cuts it; what lies outside of the image is black."""
    left, top = (_before(side, size) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def _before(side: int, size: int) -> int:
    """Where the middle of `size` pixels begins on a side; negative if that is shorter."""
    return round((side - size) / 2) if side >= size else -((size - side) // 2)


def resized(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height with the shorter side at `size` px, the longer one cut to whole pixels as by torchvision."""
    short = min(width, height)
    return size * width // short, size * height // short


def preprocess(image: Image.Image, config: ImageConfig, size: int) -> np.ndarray:
    """Centre crop (if `config.crop`), resize the shorter side to `size`, centre crop, RGB; uint8 (3, size, size).

    Raises:
        BadImage: The image is so long that it would be enlarged to more than `config.max_pixels`.
    """
    image = image.convert("RGB")
    if config.crop is not None:
        image = _center_crop(image, config.crop)
    width, height = resized(*image.size, size)
    if (width, height) != image.size:
        if width > image.width and width * height > config.max_pixels:
            raise BadImage(f"more than max_pixels = {config.max_pixels} when it is enlarged ({width} x {height})")
        image = image.resize((width, height), Image.Resampling[config.filter.upper()])
    return np.asarray(_center_crop(image, size)).transpose(2, 0, 1).copy()


def on_white(image: Image.Image) -> Image.Image:
    """The image as RGB with transparent parts white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        background.alpha_composite(image)
        image = background
    return image.convert("RGB")


def encode_png(image: Image.Image) -> bytes:
    """The image as a PNG of the same pixels, or of RGB if a PNG cannot hold them."""
    buffer = io.BytesIO()
    image = image if image.mode in _PNG_MODES else image.convert("RGB")
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
