"""Draws are pure functions of seed, sample and purpose, and have the moments they should."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ldm_scale.randomness import keyed_generator, keyed_normal, keyed_permutation

SHAPE = (4, 8, 8)
IDS = [f"members-{shard:06d}/{key:04d}" for shard in range(4) for key in range(50)]


def test_the_same_key_gives_the_same_draw() -> None:
    np.testing.assert_array_equal(keyed_normal(3, "a/b", "noise", SHAPE), keyed_normal(3, "a/b", "noise", SHAPE))
    np.testing.assert_array_equal(keyed_permutation(3, "a/b", "mask", 99), keyed_permutation(3, "a/b", "mask", 99))


def test_draws_do_not_depend_on_the_order_or_on_other_draws() -> None:
    alone = {name: keyed_normal(0, name, "noise", SHAPE) for name in IDS}
    np.random.default_rng(0).standard_normal(1000)
    for name in reversed(IDS):
        keyed_generator(0, name, "other").random(7)
        np.testing.assert_array_equal(keyed_normal(0, name, "noise", SHAPE), alone[name])


def test_draws_do_not_depend_on_threads() -> None:
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda name: keyed_normal(0, name, "noise", SHAPE), IDS))
    np.testing.assert_array_equal(together, [keyed_normal(0, name, "noise", SHAPE) for name in IDS])


def test_seed_sample_and_purpose_each_make_another_draw() -> None:
    keys = [(0, "a/b", "noise"), (1, "a/b", "noise"), (0, "a/c", "noise"), (0, "a/b", "probes"), (0, "a/b ", "noise")]
    draws = np.stack([keyed_normal(*key, SHAPE).ravel() for key in keys])
    # Independent draws of 256 correlate with standard deviation 1/16; four of them for the largest of ten pairs.
    assert np.abs(np.corrcoef(draws) - np.eye(len(keys))).max() < 4 / 16


def test_the_parts_of_a_key_do_not_run_into_each_other() -> None:
    keys = [(1, "1a", "b"), (11, "a", "b"), (1, "1", "ab"), (1, "1ab", ""), (-1, "1a", "b")]
    assert len({keyed_generator(*key).integers(2**62) for key in keys}) == len(keys)


def test_known_draws_stay_as_they_are() -> None:
    # A change here changes every run that was ever made.
    expected = np.array([0.49277723, -0.8721705, -0.6234901], dtype=np.float32)
    np.testing.assert_allclose(keyed_normal(0, "members-000000/a", "probes", (3,)), expected, rtol=1e-6)
    assert keyed_permutation(0, "members-000000/a", "random mask", 6).tolist() == [4, 2, 0, 1, 5, 3]


def test_normal_draws_have_the_moments_of_a_standard_normal() -> None:
    draws = np.stack([keyed_normal(0, name, "noise", (500,)) for name in IDS]).astype(float)
    assert draws.dtype == float
    assert keyed_normal(0, "a", "noise", SHAPE).dtype == np.float32
    assert keyed_normal(0, "a", "noise", SHAPE).shape == SHAPE
    count = draws.size
    # Four standard errors of the mean, variance, skewness and kurtosis of 100,000 normal draws.
    assert draws.mean() == pytest.approx(0, abs=4 / count**0.5)
    assert draws.var() == pytest.approx(1, abs=4 * (2 / count) ** 0.5)
    assert (draws**3).mean() == pytest.approx(0, abs=4 * (15 / count) ** 0.5)
    assert (draws**4).mean() == pytest.approx(3, abs=4 * (96 / count) ** 0.5)
    # Across samples each position is normal too: the means of 200 have variance 1/200 (relative error 2/sqrt(1000)).
    assert draws.mean(0).var() == pytest.approx(1 / len(IDS), rel=4 * (2 / 500) ** 0.5)


def test_permutations_hold_every_number_once_and_are_uniform() -> None:
    orders = np.stack([keyed_permutation(0, f"a/{i}", "mask", 5) for i in range(3000)])
    assert orders.dtype == np.int64
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.broadcast_to(np.arange(5), (3000, 5)))
    counts = np.stack([(orders == value).sum(0) for value in range(5)])
    # 600 expected of 3,000 in each of 25 cells, standard deviation 22; four of them.
    assert np.abs(counts - 600).max() < 4 * 22
