"""Stratified folds."""

import numpy as np
import pytest

from ldm_scale.analysis.folds import folds


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize(("members", "heldout"), [(40, 60), (7, 13), (5, 5), (11, 10)])
def test_each_fold_has_its_part_of_each_side(members: int, heldout: int, count: int) -> None:
    member = np.random.default_rng(0).permutation(np.repeat([True, False], [members, heldout]))
    fold = folds(member, count, 1)
    for side in (member, ~member):
        sizes = [int((fold[side] == part).sum()) for part in range(count)]
        assert sum(sizes) == side.sum()
        assert sizes == sorted(sizes)
        assert sizes[-1] - sizes[0] <= 1


def test_folds_are_random_and_seeded() -> None:
    member = np.arange(40) < 20
    np.testing.assert_array_equal(folds(member, 4, 3), folds(member, 4, 3))
    draws = np.array([folds(member, 4, seed) for seed in range(400)])
    # Every sample is in every fold a quarter of the time: four standard errors of a share of 400.
    for part in range(4):
        np.testing.assert_allclose((draws == part).mean(axis=0), 0.25, atol=4.5 * (0.25 * 0.75 / 400) ** 0.5)
