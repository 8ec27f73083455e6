"""A scan against the metrics of each score by itself."""

import numpy as np
import pytest

from ldm_scale.analysis.groups import distortion_groups, memberships
from ldm_scale.analysis.metrics import aurocs, evaluate
from ldm_scale.analysis.scan import join, scan
from ldm_scale.analysis.scores import Mask
from ldm_scale.analysis.splithalf import choosing, halves
from tests.analysis.spectra import Spectra

BINS, STEPS, REPEATS = 5, 3, 4
NO_GROUPS = memberships([], 61)


@pytest.fixture
def spectra() -> Spectra:
    rng = np.random.default_rng(0)
    values = np.round(rng.lognormal(size=(61, STEPS, BINS)), 1).astype(np.float32)  # ties
    return Spectra(rng.permutation(np.arange(61) % 2 == 0), (0, 10, 20), values, values)


@pytest.mark.parametrize("mask", [Mask.LOWEST, Mask.HIGHEST])
def test_it_holds_every_scores_metrics_and_its_auroc_on_every_choosing_half(spectra: Spectra, mask: Mask) -> None:
    member = spectra.member
    found = scan(spectra.by_influence, mask, member, choosing(member, REPEATS, 7), {0, 2}, NO_GROUPS, ())
    assert found.grid.shape == (BINS, STEPS, 5)
    for dropped in range(BINS):
        scores = spectra.scores(mask, dropped)
        for step in range(STEPS):
            np.testing.assert_allclose(found.grid[dropped, step], evaluate(scores[:, step], member), atol=1e-12)
        if dropped in (0, 2):
            for halving in range(REPEATS):
                half = halves(member, 7, halving)[0]
                expected = aurocs(scores[half], member[half])
                np.testing.assert_allclose(found.choosing[dropped, :, halving], expected, atol=1e-12)
        else:
            assert np.isnan(found.choosing[dropped]).all()


def test_scans_of_successive_timesteps_join_to_the_scan_of_all(spectra: Spectra) -> None:
    chosen = choosing(spectra.member, REPEATS, 0)
    groups = memberships(distortion_groups(np.arange(61.0)), 61)
    whole, *parts = (
        scan(spectra.by_influence[:, steps], Mask.LOWEST, spectra.member, chosen, {1, 2}, groups, {2})
        for steps in (slice(3), slice(1), slice(1, 3))
    )
    joined = join(parts)
    for name in ("grid", "choosing", "strict", "groups"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


def test_groups_and_the_strict_rate_are_asked_of_fixed_shares_alone(spectra: Spectra) -> None:
    member, groups = spectra.member, distortion_groups(np.where(spectra.member, 2.0, 1.0) + np.arange(61) / 100)
    inside, chosen = memberships(groups, 61), choosing(spectra.member, REPEATS, 0)
    found = scan(spectra.by_influence, Mask.HIGHEST, member, chosen, {0, 2, 3}, inside, {2, 4})
    for dropped in (0, 1, 3, 4):
        assert np.isnan(found.strict[dropped]).all()
        assert np.isnan(found.groups[dropped]).all()
    # Each quartile has members alone or held-out samples alone but the one in the middle.
    empty = [not group.has_both_sides(member) for group in groups]
    assert 0 < sum(empty) < len(groups)
    for step in range(STEPS):
        assert np.isnan(found.groups[2, step]).tolist() == empty
        for group, value in zip(groups, found.groups[2, step], strict=True):
            if group.has_both_sides(member):
                scores = spectra.scores(Mask.HIGHEST, 2)[group.rows]
                assert value == pytest.approx(aurocs(scores, member[group.rows])[step], abs=1e-12)
