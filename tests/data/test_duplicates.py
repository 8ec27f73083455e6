"""Groups of near-duplicates against a double loop, and the contractions that spare most comparisons."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from ldm_scale.data.duplicates import duplicate_groups, near_pairs, thumbnail


def same_groups(groups: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(groups == group).tolist()) for group in set(groups.tolist())}


def naive_pairs(thumbnails: np.ndarray, radius: float) -> set[tuple[int, int]]:
    values = thumbnails.astype(float) / 255
    return {
        (i, j)
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if np.sqrt(np.mean((values[i] - values[j]) ** 2)) <= radius
    }


def naive_groups(thumbnails: np.ndarray, variants: list[str], radius: float) -> set[frozenset[int]]:
    """Merge the groups of each pair that belongs together, again and again."""
    label = list(range(len(variants)))
    pairs = naive_pairs(thumbnails, radius)
    pairs |= {(i, j) for i in label for j in label if i < j and variants[i] == variants[j]}
    for _ in variants:
        for i, j in pairs:
            label[i] = label[j] = min(label[i], label[j])
    return same_groups(np.array(label))


def grey(*values: float) -> np.ndarray:
    """One even thumbnail an intensity."""
    return np.stack([np.full((32, 32, 3), round(255 * value), np.uint8) for value in values])


def smooth(rng: np.random.Generator, count: int) -> np.ndarray:
    small = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC)) for one in small])


def noise(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def low_contrast(rng: np.random.Generator, count: int) -> np.ndarray:
    return 120 + noise(rng, count) // 32


def line(rng: np.random.Generator, count: int) -> np.ndarray:
    """Mixtures of two pictures: long chains."""
    one, other = smooth(rng, 2).astype(float)
    return np.stack([one + (other - one) * share for share in rng.random(count)]).astype(np.uint8)


@pytest.mark.parametrize("radius", [0.01, 0.05, 0.12])
@pytest.mark.parametrize("pictures", [smooth, noise, low_contrast, line])
def test_groups_match_a_double_loop(pictures: Callable[..., np.ndarray], radius: float) -> None:
    rng = np.random.default_rng(0)
    originals = pictures(rng, 20)[rng.integers(0, 20, 60)]
    # Copies at all distances about the radius.
    spread = 255 * radius * rng.uniform(0, 1.2, (60, 1, 1, 1))
    thumbnails = (originals + spread * rng.standard_normal(originals.shape)).clip(0, 255).astype(np.uint8)
    variants = [str(number) for number in rng.integers(0, 150, 60)]
    expected = naive_pairs(thumbnails, radius)
    assert {tuple(sorted(pair)) for pair in near_pairs(thumbnails, radius).tolist()} == expected
    assert same_groups(duplicate_groups(thumbnails, variants, radius)) == naive_groups(thumbnails, variants, radius)


def test_pairs_at_exactly_the_radius_are_near() -> None:
    assert near_pairs(grey(0, 0.2, 0.4), 51 / 255).tolist() == [[0, 1], [1, 2]]


def test_pictures_of_equal_block_means_are_told_apart() -> None:
    board = np.indices((32, 32)).sum(axis=0) % 2 * np.uint8(200)
    boards = np.stack([board, 200 - board])[..., None].repeat(3, axis=-1)
    assert near_pairs(boards, 0.05).tolist() == []


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_and_equal_thumbnails_are_grouped(count: int) -> None:
    variants = list("abcde")[:count]
    assert same_groups(duplicate_groups(grey(*[0.5] * count), variants, 0.01)) == {frozenset(range(count))}


def test_a_chain_of_near_pairs_is_one_group() -> None:
    # Each step is 0.04, the ends are 0.36 apart; the last one stands alone.
    thumbnails = grey(*np.arange(10) * 0.04, 0.9)
    assert same_groups(duplicate_groups(thumbnails, list("abcdefghijk"), 0.05)) == {
        frozenset(range(10)),
        frozenset([10]),
    }


def test_variants_join_whatever_they_look_like_and_bridge_chains() -> None:
    thumbnails = grey(0.0, 1.0, 0.51, 0.5)
    assert same_groups(duplicate_groups(thumbnails, ["x", "x", "y", "z"], 0.02)) == {
        frozenset([0, 1]),
        frozenset([2, 3]),
    }
    assert same_groups(duplicate_groups(thumbnails, ["x", "y", "y", "x"], 0.02)) == {frozenset(range(4))}


def test_more_thumbnails_than_are_taken_at_a_time() -> None:
    rng = np.random.default_rng(1)
    thumbnails = smooth(rng, 5000)
    thumbnails[[17, 4500]] = thumbnails[[4900, 4501]]
    assert {tuple(sorted(pair)) for pair in near_pairs(thumbnails, 0.05).tolist()} == {(17, 4900), (4500, 4501)}


def test_a_thumbnail_is_the_box_average() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    expected = pixels.reshape(32, 2, 32, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(thumbnail(Image.fromarray(pixels)), expected, atol=1)
