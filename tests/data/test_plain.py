"""What is plain of a sample, against loops."""

import io
import math

import numpy as np
import pytest

from ldm_scale.data.images import BadImage, open_image, size_of
from ldm_scale.data.plain import plain_features
from ldm_scale.schema import FORMATS, PLAIN
from tests.conftest import make_image


def stored(kind: str, size: int = 12) -> bytes:
    buffer = io.BytesIO()
    make_image(3, size).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_every_number_is_what_its_name_says(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5), np.uint8)
    data = stored(kind)
    found = dict(zip(PLAIN, plain_features(data, ["é cat", "two"], 7, (30, 20), pixels).tolist(), strict=True))
    neighbours = [
        abs(int(pixels[c, y, x + 1]) - int(pixels[c, y, x])) for c in range(3) for y in range(4) for x in range(4)
    ]
    expected = {
        "class": 7,
        "captions": 2,
        "caption length": 5,
        "width": 30,
        "height": 20,
        "format": FORMATS.index(kind),
        "bytes": len(data),
        "sharpness": sum(neighbours) / len(neighbours),
    }
    for number, name in enumerate(("red", "green", "blue")):
        values = [int(value) for value in pixels[number].ravel()]
        mean = sum(values) / 20
        expected |= {name: mean, f"{name} deviation": math.sqrt(sum((value - mean) ** 2 for value in values) / 20)}
    assert found == pytest.approx(expected, rel=1e-5)


def test_what_is_not_known_is_no_number() -> None:
    found = dict(zip(PLAIN, plain_features(b"no image", [], None, None, None), strict=True))
    known = {name: float(value) for name, value in found.items() if not np.isnan(value)}
    assert known == {"captions": 0, "caption length": 0, "bytes": 8}


def test_an_image_of_one_column_has_no_neighbours() -> None:
    assert plain_features(b"", [], None, None, np.zeros((3, 4, 1), np.uint8))[-1] == 0


@pytest.mark.parametrize("kind", FORMATS)
def test_a_header_says_the_size_without_the_pixels(kind: str) -> None:
    data = stored(kind, 200)
    # WebP's own decoder looks at the whole file.
    header = data if kind == "WEBP" else data[: len(data) - 20]
    assert size_of(header, 10**6) == (200, 200) == open_image(data, 10**6).size
    with pytest.raises(BadImage, match="max_pixels"):
        size_of(data, 100)
    with pytest.raises(BadImage, match="no image"):
        size_of(b"", 100)
