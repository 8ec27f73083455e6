"""Near-duplicates: altered copies are found, others are not, and groups do not chain."""

import io
import time
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import map_coordinates

from ldm_scale.config.data import PackConfig
from ldm_scale.data import candidates
from ldm_scale.data.candidates import close_pairs
from ldm_scale.data.duplicates import Duplicate, Gallery, Look, leaders
from ldm_scale.data.likeness import _detail, correlation, descriptors, mirrored
from ldm_scale.data.work import one_by_one

LOWEST = PackConfig.model_fields["near_duplicates"].default


def photograph(rng: np.random.Generator, size: int = 32) -> Image.Image:
    """Noise of as much power at each scale as a photograph has."""
    down, across = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij")
    power = 1 / np.maximum(np.hypot(down, across), 1 / size) ** 1.4
    spectrum = power[..., None] * np.fft.fft2(rng.standard_normal((size, size, 3)), axes=(0, 1))
    waves = np.fft.ifft2(spectrum, axes=(0, 1)).real
    values = waves.mean(axis=2, keepdims=True) + 0.3 * waves
    values = 128 + 45 * (values - values.mean()) / values.std()
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))


def as_jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=50)
    return Image.open(buffer).convert("RGB")


def rescaled(image: Image.Image) -> Image.Image:
    return image.resize((round(image.width * 0.64), round(image.height * 0.64)), Image.Resampling.BICUBIC)


def cropped(image: Image.Image) -> Image.Image:
    edge = image.width * 0.025
    return image.resize(image.size, Image.Resampling.BICUBIC, (edge, edge, image.width - edge, image.height - edge))


def moved(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.roll(np.asarray(image), image.width // 32, axis=1))


def in_mirror(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def brighter(image: Image.Image) -> Image.Image:
    return image.point(lambda level: min(255, round(level * 1.2)))


def of_more_contrast(image: Image.Image) -> Image.Image:
    return image.point(lambda level: max(0, min(255, round((level - 128) * 1.2 + 128))))


COPIES = (as_jpeg, rescaled, cropped, moved, in_mirror, brighter, of_more_contrast)


def found(images: list[Image.Image], variants: list[str | None] | None = None) -> list[Duplicate]:
    gallery = Gallery(len(images))
    for image, variant in zip(images, variants or [None] * len(images), strict=True):
        gallery.add(Look.at(image), variant)
    return gallery.duplicates(LOWEST, one_by_one)


@pytest.mark.parametrize("size", [32, 256])
@pytest.mark.parametrize("copy", COPIES)
def test_altered_copies_are_found(copy: Callable[[Image.Image], Image.Image], size: int) -> None:
    rng = np.random.default_rng(size)
    originals = [photograph(rng, size) for _ in range(40)]
    duplicates = found([*originals, *map(copy, originals)])
    assert {(one.kept, one.number - 40) for one in duplicates} <= {(number, number) for number in range(40)}
    # 95% of them, of 40.
    assert len(duplicates) >= 38


def naive_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Every zoom from -6% to 6% and every move of up to 1.5 pixels, in fine steps."""
    moving, fixed = _detail(np.stack([one, other]))
    row, column = np.indices((24, 24)) - 11.5
    middle = fixed[4:28, 4:28].ravel()
    places = (
        (15.5 + zoom * row + down, 15.5 + zoom * column + across)
        for zoom in np.arange(0.94, 1.061, 0.02)
        for down in np.arange(-1.5, 1.6, 0.25)
        for across in np.arange(-1.5, 1.6, 0.25)
    )
    return max(np.corrcoef(map_coordinates(moving, place, order=1).ravel(), middle)[0, 1] for place in places)


def test_a_pair_is_compared_at_its_best_fit() -> None:
    rng = np.random.default_rng(1)
    originals = [photograph(rng) for _ in range(4)]
    copies = [as_jpeg(originals[0]), cropped(originals[1]), rescaled(moved(originals[2])), brighter(originals[3])]
    greys = [np.stack([Look.at(image).grey for image in side]) for side in (originals, copies)]
    expected = [naive_correlation(*pair) for pair in zip(*greys, strict=True)]
    assert min(expected) > LOWEST
    np.testing.assert_allclose(correlation(*greys), expected, atol=0.015)


def test_light_and_contrast_do_not_count_but_rounding_does() -> None:
    grey = np.asarray(photograph(np.random.default_rng(2)).convert("L")).astype(float)[None]

    def at(gain: float, offset: float) -> float:
        return correlation(grey.round().astype(np.uint8), (grey * gain + offset).round().astype(np.uint8)).item()

    assert at(0.5, 90) > 0.99
    assert at(1, 0) == pytest.approx(1, abs=1e-3)
    # Negatives are other pictures, and what is left after rounding to two or three levels is no picture.
    assert at(-1, 255) < 0
    assert at(0.005, 128) < LOWEST
    assert correlation(grey[:0].astype(np.uint8), grey[:0].astype(np.uint8)).shape == (0,)


def test_a_mirrored_descriptor_is_that_of_the_mirrored_picture() -> None:
    rng = np.random.default_rng(3)
    greys = rng.integers(0, 256, (5, 32, 32), dtype=np.uint8)
    np.testing.assert_allclose(mirrored(descriptors(greys)), descriptors(greys[:, :, ::-1]), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(descriptors(greys), axis=1), 1, atol=1e-6)


def test_close_vectors_are_found_without_comparing_all() -> None:
    rng = np.random.default_rng(4)
    vectors = rng.standard_normal((3000, 20))
    vectors[1500:] = vectors[:1500] + rng.uniform(0, 0.6, (1500, 1)) * rng.standard_normal((1500, 20))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    expected = {
        (i, i + 1500) for i in np.flatnonzero(np.sum(vectors[:1500] * vectors[1500:], axis=1) >= candidates.CLOSE)
    }
    pairs = {(int(i), int(j)) for i, j in close_pairs(vectors, np.arange(3000), vectors)}
    assert pairs <= expected
    assert len(pairs) >= 0.99 * len(expected) > 500


def test_of_a_crowd_only_the_closest_are_candidates() -> None:
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal(20) + 0.01 * rng.standard_normal((2000, 20))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    pairs = close_pairs(vectors, np.arange(2000), vectors)
    assert len(np.unique(pairs)) == 2000
    assert len(pairs) <= 2000 * candidates.SHARED * candidates.CLOSEST
    assert close_pairs(vectors[:1], np.arange(1), vectors[:1]).shape == (0, 2)


def test_a_crowd_of_noisy_copies_is_one_group() -> None:
    rng = np.random.default_rng(6)
    original = np.asarray(photograph(rng)).astype(float)
    images = [
        Image.fromarray((original + rng.standard_normal(original.shape)).clip(0, 255).round().astype(np.uint8))
        for _ in range(120)
    ]
    assert [(one.number, one.kept) for one in found(images)] == [(number, 0) for number in range(1, 120)]


def test_equal_placeholders_take_no_time() -> None:
    placeholder = photograph(np.random.default_rng(7))
    start = time.process_time()
    duplicates = found([placeholder] * 4000)
    assert time.process_time() - start < 2
    assert duplicates == [Duplicate(number, 0, 1.0) for number in range(1, 4000)]


def test_even_grounds_are_duplicates_only_if_equal() -> None:
    grounds = [Image.new("RGB", (32, 32), colour) for colour in ("white", "black", "red", "white", "#fefefe")]
    assert found(grounds) == [Duplicate(3, 0, 1.0)]


def test_different_glyphs_on_black_are_not_one_group() -> None:
    rng = np.random.default_rng(8)
    glyphs = []
    for _ in range(500):
        canvas = np.zeros((32, 32, 3), np.uint8)
        canvas[11:21, 11:21] = 255 * rng.integers(0, 2, (5, 5, 1), dtype=np.uint8).repeat(2, axis=0).repeat(2, axis=1)
        glyphs.append(Image.fromarray(canvas))
    kept = 500 - len(found(glyphs))
    assert kept >= 490


def test_groups_do_not_chain() -> None:
    # 0 - 1 - 2 - 3: 1 goes for 0, so that 2 stays, and 3 goes for 2. The last two pictures have no earlier one but 4.
    near = np.array([[2, 3], [0, 1], [1, 2], [4, 6], [5, 6], [4, 5]])
    assert leaders(near) == {1: 1, 3: 0, 5: 5, 6: 3}


def test_each_removed_picture_resembles_the_one_that_is_kept_for_it() -> None:
    rng = np.random.default_rng(9)
    one, other = (np.asarray(photograph(rng)).astype(float) for _ in range(2))
    images = [Image.fromarray(((1 - share) * one + share * other).astype(np.uint8)) for share in np.linspace(0, 1, 25)]
    duplicates = found(images)
    kept = set(range(25)) - {duplicate.number for duplicate in duplicates}
    greys = np.stack([Look.at(image).grey for image in images])
    assert len(kept) > 1
    for duplicate in duplicates:
        assert duplicate.kept in kept
        assert duplicate.kept < duplicate.number
        pair = greys[[duplicate.kept]], greys[[duplicate.number]]
        assert correlation(*pair).item() == pytest.approx(duplicate.correlation, abs=1e-5)
        assert duplicate.correlation is not None
        assert duplicate.correlation >= LOWEST


def test_variants_are_one_group_whatever_they_look_like() -> None:
    rng = np.random.default_rng(10)
    a, b, c = (photograph(rng) for _ in range(3))
    duplicates = found([a, b, as_jpeg(b), c, as_jpeg(b)], ["x", "y", "z", "z", None])
    likeness = duplicates[0].correlation
    assert likeness is not None
    # A variant and an equal of a duplicate go for what it goes for.
    assert duplicates == [Duplicate(2, 1, likeness), Duplicate(3, 1, None), Duplicate(4, 1, likeness)]
    assert found([a, b], ["x", "x"]) == [Duplicate(1, 0, None)]


def test_a_glance_is_a_thumbnail_in_grey() -> None:
    image = Image.new("RGB", (64, 40), (255, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.rectangle((32, 0, 63, 39), fill=(0, 0, 255))
    grey = Look.at(image).grey
    assert (grey.shape, grey.dtype) == ((32, 32), np.uint8)
    assert (grey[5, 5], grey[5, 28]) == (76, 29)
    assert Look.at(image).digest != Look.at(in_mirror(image)).digest
