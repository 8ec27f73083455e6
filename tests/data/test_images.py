"""Encoded bytes to pixels: every mode, every way bytes can be broken, and the papers' preprocessing."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from ldm_scale.config.data import ImageConfig
from ldm_scale.data.images import (
    SIGNATURE,
    BadImage,
    encode_png,
    format_of,
    on_white,
    open_image,
    preprocess,
    resized,
)
from tests.conftest import make_image
from tests.data.pngs import chunk, png, png_header

LIMIT = 10**6
AS_IS = ImageConfig()


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pixels_of(data: bytes, size: int) -> np.ndarray:
    return preprocess(open_image(data, LIMIT), AS_IS, size)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_lossless_images_keep_every_pixel(kind: str) -> None:
    image = noise(16, 16)
    expected = np.asarray(image).transpose(2, 0, 1)
    pixels = pixels_of(encode(image, kind, lossless=True), 16)
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.dtype == np.uint8


def test_jpeg_is_decoded() -> None:
    image = make_image(0, 32)
    difference = pixels_of(encode(image, "JPEG", quality=95), 32).astype(int) - np.asarray(image).transpose(2, 0, 1)
    # A smooth picture at quality 95 with halved chroma: a few grey levels on average.
    assert np.abs(difference).mean() < 5


def test_cmyk_becomes_rgb() -> None:
    data = encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    red = np.array([255, 0, 0])[:, None, None]
    np.testing.assert_allclose(pixels_of(data, 8).astype(int), np.broadcast_to(red, (3, 8, 8)), atol=4)


def test_palette_images_show_their_colours() -> None:
    colours = Image.new("RGB", (4, 4), (10, 20, 30))
    colours.putpixel((1, 2), (200, 100, 50))
    palette = colours.quantize(8)
    assert palette.mode == "P"
    np.testing.assert_array_equal(pixels_of(encode(palette), 4), np.asarray(colours).transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_images_have_three_equal_channels(mode: str) -> None:
    grey = noise(9, 9).convert(mode)
    pixels = pixels_of(encode(grey), 9)
    for channel in pixels:
        np.testing.assert_array_equal(channel, np.asarray(grey.convert("L")))


def test_sixteen_bit_greys_keep_their_gradient() -> None:
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    pixels = pixels_of(encode(Image.fromarray(values)), 16)
    # 8-bit greys of the same intensities; one level for either way of rounding.
    np.testing.assert_allclose(pixels[0].astype(float), values / 257, atol=1)


def naive_rgba(values: np.ndarray, depth: int, clear: tuple[int, ...] | None) -> np.ndarray:
    """Pixel by pixel: 8-bit levels of a PNG's values, and which of them are transparent."""
    height, width, channels = values.shape
    found = np.zeros((height, width, 4), int)
    for y in range(height):
        for x in range(width):
            levels = [int(level) for level in values[y, x]]
            if depth == 16 and channels == 1:
                eight = [round(levels[0] / 257)]
            elif depth == 16:
                eight = [level >> 8 for level in levels]
            else:
                eight = [level * 255 // (2**depth - 1) for level in levels]
            alpha = eight.pop() if channels in (2, 4) else 255 * (clear is None or tuple(levels) != clear)
            found[y, x] = [*(eight * 3)[:3], alpha] if len(eight) == 1 else [*eight, alpha]
    return found


# Every colour type of PNG but palettes: depth in bits, the type's number, its channels.
KINDS = [
    *((depth, 0, 1) for depth in (1, 2, 4, 8, 16)),
    (8, 2, 3),
    (16, 2, 3),
    (8, 4, 2),
    (16, 4, 2),
    (8, 6, 4),
    (16, 6, 4),
]


@pytest.mark.parametrize("with_clear", [False, True])
@pytest.mark.parametrize(("depth", "colour", "channels"), KINDS)
def test_pngs_of_every_depth_are_read_and_laid_on_white(
    depth: int, colour: int, channels: int, with_clear: bool
) -> None:
    rng = np.random.default_rng(depth)
    values = rng.integers(0, 2**depth, (16, 16, channels))
    # Levels that differ in their low bytes only, and such of one byte.
    values[0, :4] = np.array([0x1234, 0x3412, 0x34, 0x12])[:, None] % 2**depth
    clear = tuple(map(int, values[0, 0])) if with_clear and channels in (1, 3) else None
    expected = naive_rgba(values, depth, clear)
    image = open_image(png(values, depth, colour, clear), LIMIT)
    np.testing.assert_array_equal(preprocess(image, AS_IS, 16).transpose(1, 2, 0), expected[..., :3])
    share = expected[..., 3:] / 255
    white = expected[..., :3] * share + 255 * (1 - share)
    np.testing.assert_allclose(np.asarray(on_white(image)), white, atol=1)


def test_sixteen_bit_greys_with_transparency_stay_apart() -> None:
    found = {
        on_white(open_image(png(np.full((2, 2, 1), 3000 * number), 16, 0, (1,)), LIMIT)).getpixel((0, 0))
        for number in range(20)
    }
    assert len(found) == 20


def test_a_transparent_level_out_of_range_is_no_error() -> None:
    for depth, colour, channels in KINDS[:7]:
        data = png(np.ones((2, 2, channels), int), depth, colour, (65535,) * channels)
        assert on_white(open_image(data, LIMIT)).size == (2, 2)


def test_transparency_is_ignored_by_preprocessing_as_the_papers_do() -> None:
    image = noise(8, 8)
    clear = image.copy()
    clear.putalpha(0)
    np.testing.assert_array_equal(preprocess(clear, AS_IS, 8), np.asarray(image).transpose(2, 0, 1))


def test_rotation_in_exif_is_left_as_stored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_image(encode(noise(20, 10), "JPEG", exif=exif), LIMIT).size == (20, 10)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [noise(8, 8, seed) for seed in range(3)]
    data = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(pixels_of(data, 8), np.asarray(frames[0]).transpose(2, 0, 1))


def test_a_cameras_jpeg_with_a_second_picture_is_its_first() -> None:
    """Pillow #1198: it calls such a file an MPO, whatever its suffix."""
    data = encode(make_image(0), "MPO", save_all=True, append_images=[make_image(1, 8)])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert format_of(data[:SIGNATURE]) == "JPEG"
    np.testing.assert_array_equal(pixels_of(data, 16), pixels_of(encode(make_image(0), "JPEG"), 16))


@pytest.mark.parametrize("behind", [b"\0\0\0\x18ftypmp42" + b"\xff\xd8\xff" * 9999, bytes(9999)])
def test_what_follows_a_jpeg_does_not_matter(behind: bytes) -> None:
    """libjxl #3502: a phone puts a film behind the photograph."""
    data = encode(make_image(0), "JPEG")
    np.testing.assert_array_equal(pixels_of(data + behind, 16), pixels_of(data, 16))


# TIFF's tag of the resolution, a ratio at byte 26; and a directory that is cut after its first number.
NO_RATIO = struct.pack(">HHHIIIII", 1, 0x011A, 5, 1, 26, 0, 0, 0)
CUT = struct.pack(">HHH", 5, 0x011A, 5)


@pytest.mark.parametrize("directory", [NO_RATIO, CUT], ids=["0/0 pixels an inch", "cut"])
def test_broken_exif_does_not_matter(directory: bytes) -> None:
    """Pillow #3198 and #7456: of a photograph of ImageNet, whose pixels are whole."""
    data = encode(make_image(0), "JPEG")
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + directory
    start = 4 + int.from_bytes(data[4:6], "big")
    broken = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[start:]
    np.testing.assert_array_equal(pixels_of(broken, 16), pixels_of(data, 16))


FOREIGN = {
    "gif": encode(noise(8, 8), "GIF"),
    "bmp": encode(noise(8, 8), "BMP"),
    "tiff": encode(noise(8, 8), "TIFF"),
    "html": b"<html><body>404 Not Found</body></html>",
    "zeros": bytes(1000),
    "png signature alone": b"\x89PNG\r\n\x1a\n",
    "jpeg marker alone": b"\xff\xd8\xff",
    "riff of another kind": b"RIFF\x24\x00\x00\x00WAVEfmt ",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_bytes_are_bad_images(name: str) -> None:
    with pytest.raises(BadImage, match="cannot be decoded"):
        open_image(FOREIGN[name], LIMIT)


def test_the_reason_is_one_line_and_the_same_each_time() -> None:
    for data in FOREIGN.values():
        with pytest.raises(BadImage) as first:
            open_image(data, LIMIT)
        with pytest.raises(BadImage) as second:  # while the first error still holds its buffer in memory
            open_image(data, LIMIT)
        assert str(first.value) == str(second.value)
        assert "\n" not in str(first.value)


def test_no_bytes_are_no_image() -> None:
    with pytest.raises(BadImage, match="no image"):
        open_image(b"", LIMIT)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_truncated_images_are_bad_wherever_they_are_cut(kind: str) -> None:
    data = encode(noise(24, 24), kind)
    for cut in range(1, len(data) * 9 // 10, max(1, len(data) // 60)):
        with pytest.raises(BadImage):
            open_image(data[:cut], LIMIT)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_bytes_never_raise_anything_else(kind: str) -> None:
    data = encode(noise(16, 16), kind)
    rng = np.random.default_rng(0)
    bad = 0
    for _ in range(300):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 5)):
            damaged[place] = rng.integers(256)
        try:
            assert preprocess(open_image(bytes(damaged), LIMIT), AS_IS, 8).shape == (3, 8, 8)
        except BadImage:
            bad += 1
    assert bad > 0


def test_too_many_pixels_are_rejected_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(self: ImageFile.ImageFile) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    with pytest.raises(BadImage, match=r"more than max_pixels = 64000000 \(12000 x 9000\)"):
        open_image(png_header(12000, 9000), 64_000_000)


def test_a_decompression_bomb_is_a_bad_image() -> None:
    with pytest.raises(BadImage):
        open_image(png_header(2**31 - 1, 2**31 - 1), 64_000_000)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
@pytest.mark.parametrize("place", [33, -12], ids=["before the pixels", "after them"])
def test_a_text_that_inflates_is_a_bad_image(kind: bytes, place: int) -> None:
    text = zlib.compress(bytes(100 << 20))
    body = b"Comment\0\0" + text if kind == b"zTXt" else b"Comment\0\1\0\0\0" + text
    png = encode(noise(8, 8))
    assert open_image(png, LIMIT).size == (8, 8)
    with pytest.raises(BadImage, match="cannot be decoded: Decompressed data too large"):
        open_image(png[:place] + chunk(kind, body) + png[place:], LIMIT)


def test_an_image_so_long_that_enlarging_it_would_fill_memory_is_a_bad_image() -> None:
    config = ImageConfig(max_pixels=64_000_000)
    with pytest.raises(BadImage, match=r"more than max_pixels = 64000000 when it is enlarged \(512000000 x 512\)"):
        preprocess(Image.new("1", (1_000_000, 1)), config, 512)
    assert preprocess(Image.new("1", (1, 100_000)), config, 16).shape == (3, 16, 16)


def test_an_animated_png_gives_its_default_image() -> None:
    frames = [noise(8, 8, seed) for seed in range(3)]
    data = encode(frames[0], "PNG", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(pixels_of(data, 8), np.asarray(frames[0]).transpose(2, 0, 1))


def test_the_largest_allowed_image_is_decoded() -> None:
    data = encode(noise(20, 10))
    assert open_image(data, 200).size == (20, 10)
    with pytest.raises(BadImage, match="20 x 10"):
        open_image(data, 199)


def test_celeba_is_cropped_to_140_then_resized_to_64() -> None:
    image = noise(178, 218)
    cropped = Image.fromarray(np.asarray(image)[39:179, 19:159])
    expected = np.asarray(cropped.resize((64, 64), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    np.testing.assert_array_equal(preprocess(image, ImageConfig(crop=140), 64), expected)


@pytest.mark.parametrize(
    ("width", "height", "resized", "box"),
    [
        (100, 50, (64, 32), (16, 0)),
        (50, 100, (32, 64), (0, 16)),
        (33, 32, (33, 32), (0, 0)),  # half a pixel rounds to even: none is cut on the left
        (35, 32, (35, 32), (2, 0)),
        (20, 20, (32, 32), (0, 0)),
        (90, 31, (92, 32), (30, 0)),  # 92.9 pixels: cut, not rounded
    ],
)
@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_the_shorter_side_is_resized_then_the_centre_is_cut_out(
    width: int, height: int, resized: tuple[int, int], box: tuple[int, int], name: str
) -> None:
    image = noise(width, height)
    method = {"nearest": 0, "bilinear": 2, "bicubic": 3, "lanczos": 1}[name]
    whole = np.asarray(image.resize(resized, method))
    expected = whole[box[1] : box[1] + 32, box[0] : box[0] + 32].transpose(2, 0, 1)
    np.testing.assert_array_equal(preprocess(image, ImageConfig(filter=name), 32), expected)


SIDES = np.arange(1, 2001)


@pytest.mark.parametrize("size", [1, 32, 64, 224, 256, 299, 512, 768, 1024])
def test_sizes_are_torchvisions(size: int) -> None:
    """torchvision.transforms.functional._compute_resized_output_size: int(size * long / short), in double precision."""
    width, height = SIDES[:, None], SIDES[None, :]
    long, short = np.maximum(width, height), np.minimum(width, height)
    longer = (size * long / short).astype(int)
    expected = np.where(width <= height, size, longer), np.where(width <= height, longer, size)
    short_first = (size * width // short, size * height // short)
    np.testing.assert_array_equal(short_first, expected)
    for w, h in np.random.default_rng(size).integers(1, 2001, (5000, 2)).tolist():
        assert resized(w, h, size) == (expected[0][w - 1, h - 1], expected[1][w - 1, h - 1])


# Photographs of ImageNet's usual sizes: width, height, and torchvision's width and height at 256 and at 512 px.
TORCHVISION = [
    ((500, 375), (341, 256), (682, 512)),
    ((375, 500), (256, 341), (512, 682)),
    ((500, 333), (384, 256), (768, 512)),
    ((500, 334), (383, 256), (766, 512)),
    ((640, 427), (383, 256), (767, 512)),
    ((500, 357), (358, 256), (717, 512)),
    ((1024, 683), (383, 256), (767, 512)),
    ((500, 500), (256, 256), (512, 512)),
]


@pytest.mark.parametrize(("stored", "small", "large"), TORCHVISION)
def test_photographs_get_torchvisions_sizes(
    stored: tuple[int, int], small: tuple[int, int], large: tuple[int, int]
) -> None:
    assert (resized(*stored, 256), resized(*stored, 512)) == (small, large)


def naive_center_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """torchvision.transforms.functional.center_crop: pad to the size, then cut at round((side - size) / 2.0)."""
    height, width = pixels.shape[:2]
    wide, high = max(size - width, 0), max(size - height, 0)
    padded = np.pad(pixels, ((high // 2, (high + 1) // 2), (wide // 2, (wide + 1) // 2), (0, 0)))
    top, left = (round((side - size) / 2.0) for side in padded.shape[:2])
    return padded[top : top + size, left : left + size]


def test_centres_are_torchvisions() -> None:
    config = ImageConfig(crop=7)
    for width in range(1, 16):
        for height in range(1, 16):
            image = noise(width, height)
            expected = naive_center_crop(np.asarray(image), 7).transpose(2, 0, 1)
            np.testing.assert_array_equal(preprocess(image, config, 7), expected)


def test_every_aspect_ratio_gives_the_exact_size() -> None:
    for width in (1, 2, 3, 7, 31, 63, 64, 65, 127, 300):
        for height in (1, 5, 31, 64, 65, 99):
            for size in (1, 31, 64):
                assert preprocess(noise(width, height), AS_IS, size).shape == (3, size, size)


def test_an_image_of_the_wanted_size_is_not_resampled() -> None:
    image = noise(40, 32)
    expected = np.asarray(image)[:, 4:36].transpose(2, 0, 1)
    np.testing.assert_array_equal(preprocess(image, AS_IS, 32), expected)


@pytest.mark.parametrize(
    ("pixel", "expected"),
    [((10, 20, 30, 255), (10, 20, 30)), ((10, 20, 30, 0), (255,) * 3), ((0, 0, 0, 51), (204,) * 3)],
)
def test_transparent_parts_are_laid_on_white(pixel: tuple[int, ...], expected: tuple[int, ...]) -> None:
    flat = on_white(Image.new("RGBA", (2, 2), pixel))
    assert flat.mode == "RGB"
    np.testing.assert_allclose(np.asarray(flat)[0, 0], expected, atol=1)


def test_a_transparent_palette_colour_is_laid_on_white() -> None:
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.putpixel((1, 0), 1)
    stored = open_image(encode(palette, transparency=0), LIMIT)
    np.testing.assert_array_equal(np.asarray(on_white(stored))[0], [[255] * 3, [9] * 3])


def test_encoded_pngs_hold_the_same_pixels() -> None:
    image = noise(13, 7)
    np.testing.assert_array_equal(np.asarray(open_image(encode_png(image), LIMIT)), np.asarray(image))
    assert encode_png(image) == encode_png(image)
