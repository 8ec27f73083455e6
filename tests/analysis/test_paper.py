"""The paper's table against an independent transcription of its authors' rules."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from ldm_scale.analysis.results import PaperCell, PaperRow
from ldm_scale.attacks.spectra import rank_bins, spectrum
from ldm_scale.config.audit import AnalysisConfig
from tests.analysis import published
from tests.analysis.spectra import Spectra, summary_of

TIMESTEPS = (0, 50, 100)
BINS = 5
CONFIG = AnalysisConfig(drop=0.4, bootstrap=2, repeats=1, average=())


@dataclass(frozen=True)
class Raw:
    """What a run measures of n samples, by dimension: small whole numbers, so that sums are exact and many are equal.

    powers: |S|^p, (n, T, D). influence, at_random: (n, D). distortion: (n,).
    """

    member: np.ndarray
    powers: np.ndarray
    influence: np.ndarray
    at_random: np.ndarray
    distortion: np.ndarray

    def spectra(self) -> Spectra:
        vectors = torch.from_numpy(self.powers).permute(1, 0, 2)
        orders = (rank_bins(torch.from_numpy(order), BINS) for order in (self.influence, self.at_random))
        by_influence, at_random = (spectrum(vectors, order, 1.0, BINS).numpy() for order in orders)
        return Spectra(self.member, TIMESTEPS, by_influence, at_random)

    def statistics(self, row: str) -> np.ndarray:
        pairs = zip(self.influence, self.at_random, strict=True)
        return published.statistics(self.powers, [published.kept_dimensions(row, a, b, CONFIG.drop) for a, b in pairs])


def draw(members: int, heldout: int, dimensions: int, seed: int) -> Raw:
    """Members are lower in the dimensions of high influence, and more so at the second timestep."""
    rng = np.random.default_rng(seed)
    count = members + heldout
    member = rng.permutation(np.arange(count) < members)
    influence = rng.integers(0, 6, (count, dimensions)).astype(np.float32)
    powers = rng.poisson(2.0, (count, 3, dimensions)).astype(np.float32)
    powers[:, 1] += (influence > 3) * ~member[:, None] * rng.integers(0, 2, (count, dimensions))
    distortion = rng.standard_normal(count).astype(np.float32)
    distortion[rng.choice(count, count // 8, replace=False)] = np.nan
    return Raw(member, powers, influence, rng.integers(0, 50, (count, dimensions)), distortion)


def paper_rows(raw: Raw, config: AnalysisConfig = CONFIG) -> dict[str, PaperRow]:
    spectra = raw.spectra().averaged() if config.average else raw.spectra()
    found = summary_of(spectra, raw.distortion, np.zeros((len(raw.member), 2)), config, 0)
    return {row.row: row for row in found.paper}


def assert_cell(found: PaperCell | None, expected: published.Cell | None) -> None:
    if expected is None or found is None:
        assert found is expected is None
        return
    value, steps = expected
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.timestep in {TIMESTEPS[step] for step in steps}


# Members, held-out, dimensions: fewer than 100 members; exactly 200, of which 1% is 2; unequal sides; 13 and 16 are no
# multiples of 5 bins.
CASES = [(31, 58, 13), (200, 90, 13), (40, 230, 16), (260, 45, 10)]


@pytest.mark.parametrize(("members", "heldout", "dimensions"), CASES)
def test_every_cell_is_the_published_rules(members: int, heldout: int, dimensions: int) -> None:
    raw = draw(members, heldout, dimensions, seed=members)
    found = paper_rows(raw)
    assert list(found) == ["plain", "lowest", "random", "highest"]
    for name, row in found.items():
        values = raw.statistics(name)
        assert row.drop == (0 if name == "plain" else CONFIG.drop)
        assert_cell(row.auroc, published.best(published.auroc, values, raw.member))
        assert_cell(row.asr, published.best(published.success, values, raw.member))
        assert_cell(row.tpr_at_1pct_fpr, published.best(published.tpr_below_one_percent, values, raw.member))
        cells = [
            *published.by_distortion(values, raw.member, raw.distortion, 2),
            *published.by_distortion(values, raw.member, raw.distortion, 4),
        ]
        assert [(group.groups, group.group) for group in row.by_distortion] == [
            *((2, 1), (2, 2), (4, 1), (4, 2), (4, 3), (4, 4))
        ]
        for group, cell in zip(row.by_distortion, cells, strict=True):
            assert_cell(group.auroc, cell)


def test_metrics_may_have_different_best_timesteps() -> None:
    """Else a table with one timestep a row could pass."""
    rows = [row for case in CASES for row in paper_rows(draw(*case, seed=case[0])).values()]
    assert any(len({row.auroc.timestep, row.asr.timestep, row.tpr_at_1pct_fpr.timestep}) > 1 for row in rows)
    assert any(len({group.auroc.timestep for group in row.by_distortion if group.auroc}) > 1 for row in rows)


def made_of(statistic: list[float], member: list[bool]) -> Raw:
    """Samples with the same statistic at every timestep."""
    values = np.array(statistic, np.float32)
    powers = np.repeat(values, 30).reshape(-1, 3, 10)
    flat = np.zeros((len(values), 10), np.float32)
    return Raw(np.array(member), powers, flat, flat, np.full(len(values), np.nan))


@pytest.mark.parametrize(("members", "misjudged", "rate"), [(200, 1, 1.0), (200, 2, 0.5), (99, 1, 0.5), (100, 1, 0.5)])
def test_one_percent_is_not_below_one_percent(members: int, misjudged: int, rate: float) -> None:
    """Half of the held-out samples are above all members, half lie between the misjudged ones and the others."""
    statistic = [5.0] * misjudged + [1.0] * (members - misjudged) + [9.0] * 10 + [3.0] * 10
    row = paper_rows(made_of(statistic, [True] * members + [False] * 20))["plain"]
    assert row.tpr_at_1pct_fpr == PaperCell(value=rate, timestep=0)
    assert row.by_distortion == ()


@pytest.mark.parametrize("dimensions", [13, 16, 20, 256])
def test_the_random_control_drops_no_more_than_the_share_and_the_influence_mask_no_less(dimensions: int) -> None:
    """A statistic of ones counts the dimensions that are kept."""
    count = 8
    ones = np.ones((count, 3, dimensions), np.float32)
    at_random = np.random.default_rng(0).random((count, dimensions), dtype=np.float32)
    raw = Raw(np.arange(count) < 4, ones, at_random, at_random, np.full(count, np.nan))
    spectra = raw.spectra()
    scans = spectra.scans(CONFIG, 0, raw.distortion)
    dropped = {mask: dimensions + spectra.scores(mask, 2)[0, 0] for mask in scans}
    share = 0.4 * dimensions
    assert dropped == {"lowest": np.ceil(share), "random": np.floor(share), "highest": np.floor(share)}


def test_an_averaged_attack_has_the_mean_over_timesteps_alone() -> None:
    raw = draw(31, 58, 13, seed=3)
    # Whole means of three timesteps.
    raw = replace(raw, powers=3 * raw.powers)
    for name, row in paper_rows(raw, CONFIG.model_copy(update={"average": ("sima",)})).items():
        values = raw.statistics(name).mean(axis=1, keepdims=True)
        assert row.auroc.timestep is row.asr.timestep is row.tpr_at_1pct_fpr.timestep is None
        assert row.auroc.value == pytest.approx(published.auroc(values[:, 0], raw.member), abs=1e-12)
