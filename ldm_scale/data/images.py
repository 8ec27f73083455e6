"""Encoded image bytes to arrays the models take, the way the papers' loaders do it (Pillow)."""

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from ldm_scale.config.data import ImageConfig
from ldm_scale.errors import one_line

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# The formats of images in shards, and those that a pack makes PNGs of; how Pillow names them.
STORED = ("JPEG", "PNG", "WEBP")
PACKED = (*STORED, "TIFF", "GIF", "BMP")
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
# Bytes that tell a format; the sizes of a BMP's second header, without which text that begins with BM would be one.
SIGNATURE = 18
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
# Modes that a PNG holds as they are.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


class BadImage(Exception):
    """Bytes that cannot be an image of the data set; the message is the reject's reason."""


def format_of(start: bytes) -> str | None:
    """The format of an image, one of PACKED, by its first bytes; None if they are of none."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[:2] == b"BM" and int.from_bytes(start[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return next((name for signature, name in _SIGNATURES.items() if start.startswith(signature)), None)


def _names(formats: tuple[str, ...]) -> str:
    return f"{', '.join(formats[:-1])} or {formats[-1]}".replace("WEBP", "WebP")


def open_image(data: bytes, max_pixels: int, formats: tuple[str, ...] = STORED) -> Image.Image:
    """The decoded image, unconverted; EXIF rotation is left as stored, as the papers leave it.

    Raises:
        BadImage: The bytes are empty, broken, of another format, or an image of more than `max_pixels`, left undecoded.
    """
    if not data:
        raise BadImage("no image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=formats)
            if image.width * image.height > max_pixels:
                raise BadImage(f"more than max_pixels = {max_pixels} ({image.width} x {image.height})")
            image.load()
    except BadImage:
        raise
    except Exception as error:
        # Pillow raises many kinds on bytes made to mislead it.
        # Pillow names the buffer by its address, which no two runs share.
        detail = f"no {_names(formats)}" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise BadImage(f"cannot be decoded: {detail}") from error
    if image.mode == "F":
        raise BadImage("pixels of floating-point numbers, whose black and white nothing tells")
    return image


def as_rgb(image: Image.Image) -> Image.Image:
    """The image as Pillow converts it to RGB, but 16-bit grey scaled first: Pillow clips it to nearly all white."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def _center_crop(image: Image.Image, size: int) -> Image.Image:
    left = round((image.width - size) / 2)
    top = round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def preprocess(image: Image.Image, config: ImageConfig, size: int) -> np.ndarray:
    """Centre crop (if `config.crop`), resize the shorter side to `size`, centre crop, RGB; uint8 (3, size, size).

    Raises:
        BadImage: The image is so long that it would be enlarged to more than `config.max_pixels`.
    """
    image = as_rgb(image)
    if config.crop is not None:
        image = _center_crop(image, config.crop)
    scale = size / min(image.width, image.height)
    if scale != 1:
        width, height = round(image.width * scale), round(image.height * scale)
        if scale > 1 and width * height > config.max_pixels:
            raise BadImage(f"more than max_pixels = {config.max_pixels} when it is enlarged ({width} x {height})")
        image = image.resize((width, height), FILTERS[config.filter])
    return np.asarray(_center_crop(image, size)).transpose(2, 0, 1).copy()


def on_white(image: Image.Image) -> Image.Image:
    """The image as RGB with transparent parts white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        background.alpha_composite(image)
        image = background
    return as_rgb(image)


def as_png(image: Image.Image) -> bytes:
    """The image as a PNG of the same pixels, or of RGB if a PNG cannot hold them."""
    return encode_png(image if image.mode in _PNG_MODES else as_rgb(image))


def encode_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
