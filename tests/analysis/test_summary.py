"""What the results say of one attack: honest choices, coverage, planted signals, and every table against loops."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from ldm_scale.analysis.choices import Choices
from ldm_scale.analysis.groups import distortion_groups
from ldm_scale.analysis.metrics import ROC_POINTS
from ldm_scale.analysis.results import Headline
from ldm_scale.analysis.scores import Mask
from ldm_scale.analysis.splithalf import halves
from ldm_scale.analysis.summary import (
    AttackSummary,
    group_aurocs,
    level_warnings,
    metric_sets,
    oracle_metrics,
    share_bound,
)
from ldm_scale.config.audit import AnalysisConfig
from tests.analysis.spectra import Spectra, summary_of

STEPS, BINS = 3, 4
TIMESTEPS = (0, 50, 100)
REPEATS = 3
CONFIG = AnalysisConfig(drop=0.25, bootstrap=100, confidence=0.95, repeats=REPEATS)


def make_member(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.arange(count) % 2 == 0)


def exchangeable(seed: int, count: int = 80) -> Spectra:
    """Members and held-out samples of one distribution."""
    rng = np.random.default_rng(seed)
    shape = (count, STEPS, BINS)
    by_influence = rng.lognormal(size=shape).astype(np.float32)
    return Spectra(make_member(count, seed), TIMESTEPS, by_influence, rng.permuted(by_influence, axis=2))


def planted(seed: int, count: int = 400, step: int = 1) -> Spectra:
    """Members are lower in the upper half of the bins at one timestep; the lower half of the bins is loud noise."""
    rng = np.random.default_rng(seed)
    member = make_member(count, seed)
    by_influence = 1 + rng.random((count, STEPS, BINS))
    by_influence[:, :, : BINS // 2] *= 5
    by_influence[:, step, BINS // 2 :] -= 0.8 * member[:, None]
    values = by_influence.astype(np.float32)
    return Spectra(member, TIMESTEPS, values, rng.permuted(values, axis=2))


def names_of(spectra: Spectra) -> np.ndarray:
    return np.array([f"shard/{i:04d}" for i in range(len(spectra.member))])


def summarise(
    spectra: Spectra, distortion: np.ndarray | None = None, config: AnalysisConfig = CONFIG, seed: int = 0
) -> AttackSummary:
    if distortion is None:
        distortion = np.full(len(spectra.member), np.nan)
    geometry = np.random.default_rng(seed).standard_normal((len(spectra.member), 2))
    rows = spectra.averaged() if "sima" in config.average else spectra
    return summary_of(rows, distortion, geometry, config, seed)


def rows_of(summary: AttackSummary) -> dict[str, Headline]:
    return {line.row: line for line in summary.headline}


def naive_auroc(spectra: Spectra, mask: str, dropped: int, step: int) -> float:
    source = spectra.at_random if mask == "random" else spectra.by_influence
    kept = source[:, step, dropped:] if mask == "lowest" else source[:, step, : BINS - dropped]
    return float(roc_auc_score(spectra.member, -kept.astype(float).sum(1)))


# What each row leaves out of the choices: a mask, and how many bins.
CHOICES = {
    "plain": [("lowest", 0)],
    "lowest": [("lowest", 1)],
    "random": [("random", 1)],
    "highest": [("highest", 1)],
    "chosen": [("lowest", q) for q in range(BINS)] + [("highest", q) for q in range(1, BINS)],
}


def judged_mask(row: str, line: Headline) -> str:
    """The mask of a choice; dropping nothing is the same under each."""
    return "lowest" if line.heldout_choice.mask == "none" else line.heldout_choice.mask


def test_each_halving_reports_what_its_other_half_chose() -> None:
    """With one halving and no ties, all of a row follows from the choosing half's best candidate."""
    spectra = exchangeable(5)
    config = CONFIG.model_copy(update={"repeats": 1})
    choose, report = halves(spectra.member, 0, 0)
    choosing, held = spectra.take(choose), spectra.take(report)
    lines = rows_of(summarise(spectra, config=config))
    for row, choices in CHOICES.items():
        grid = [(naive_auroc(choosing, m, q, step), m, q, step) for m, q in choices for step in range(STEPS)]
        _, mask, dropped, step = max(grid, key=lambda entry: entry[0])
        found = lines[row].heldout_choice
        assert (found.drop, found.timestep, found.agreement) == (dropped / BINS, TIMESTEPS[step], 1.0), row
        assert found.mask == (mask if dropped else "none")
        assert found.metrics.auroc.value == pytest.approx(naive_auroc(held, mask, dropped, step), abs=1e-12), row
        assert found.delong.value == found.metrics.auroc.value
        plain = lines["plain"].heldout_choice.metrics.auroc.value
        if row == "plain":
            assert found.difference is None
        else:
            assert found.difference is not None
            assert found.difference.auroc.value == pytest.approx(found.metrics.auroc.value - plain, abs=1e-12)


def test_the_held_out_choice_never_looks_at_the_report_half() -> None:
    spectra = planted(0, step=1)
    config = CONFIG.model_copy(update={"repeats": 1})
    report = halves(spectra.member, 0, 0)[1]
    changed = spectra.by_influence.copy()
    other = planted(1, step=2)
    # In the report half alone the members now stand out at another timestep, and in the lowest bin.
    changed[report] = other.by_influence[report][:, :, ::-1]
    changed[report, 2, 0] = np.where(spectra.member[report], 0.1, 9)
    before, after = (
        rows_of(summarise(spectra, config=config)),
        rows_of(summarise(Spectra(spectra.member, TIMESTEPS, changed, changed), config=config)),
    )
    for row in ("plain", "lowest", "highest", "chosen", "geometry"):
        assert after[row].heldout_choice.timestep == before[row].heldout_choice.timestep, row
        assert after[row].heldout_choice.drop == before[row].heldout_choice.drop, row
    assert after["plain"].heldout_choice.metrics != before["plain"].heldout_choice.metrics
    assert after["plain"].oracle is not None
    assert after["plain"].oracle.timestep == 100


def test_the_oracle_is_the_best_of_the_grid_on_all_samples() -> None:
    spectra = exchangeable(6)
    lines = rows_of(summarise(spectra))
    for row, choices in CHOICES.items():
        oracle = lines[row].oracle
        assert oracle is not None
        best = max(naive_auroc(spectra, mask, q, t) for mask, q in choices for t in range(STEPS))
        assert oracle.metrics.auroc.value == pytest.approx(best, abs=1e-12), row
        assert oracle.delong.value == pytest.approx(best, abs=1e-12), row
    assert lines["geometry"].oracle is None


def test_too_few_held_out_samples_leave_the_geometry_row_out() -> None:
    assert "geometry" not in rows_of(summarise(exchangeable(1, count=14)))
    assert "geometry" in rows_of(summarise(exchangeable(1, count=16)))


def test_an_averaged_attack_has_one_score_over_all_timesteps() -> None:
    spectra = planted(8)
    found = summarise(spectra, config=CONFIG.model_copy(update={"average": ("sima",)}))
    expected = roc_auc_score(spectra.member, -spectra.by_influence.astype(float).mean(1).sum(1))
    assert [(p.timestep, p.drop) for p in found.by_timestep] == [(None, 0.0), (None, 0.25)]
    assert found.by_timestep[0].auroc == pytest.approx(expected, abs=1e-9)
    assert {line.heldout_choice.timestep for line in found.headline} == {None}
    assert set(found.grid["timestep"].to_pylist()) == {None}


def test_a_global_mask_has_a_row_and_a_curve_of_its_own() -> None:
    spectra = exchangeable(9)
    ranked = replace(spectra, globally=spectra.by_influence[:, :, ::-1].copy())
    summary = summarise(ranked)
    assert [line.row for line in summary.headline] == [
        *("plain", "lowest", "global", "random", "highest", "chosen", "geometry")
    ]
    grid = {(row["mask"], row["drop"], row["timestep"]): row["auroc"] for row in summary.grid.to_pylist()}
    # Dropping the lowest of the reversed bins is dropping the highest.
    for q in range(BINS):
        assert grid["global", q / BINS, 50] == grid["highest", q / BINS, 50]


def test_bins_alone_have_their_own_auroc() -> None:
    spectra = planted(3)
    summary = summarise(spectra)
    step = TIMESTEPS.index(rows_of(summary)["plain"].heldout_choice.timestep)
    assert [point.bin for point in summary.by_bin] == list(range(BINS))
    for point in summary.by_bin:
        expected = roc_auc_score(spectra.member, -spectra.by_influence[:, step, point.bin])
        assert point.auroc.value == pytest.approx(expected, abs=1e-12)
        assert point.auroc.low <= point.auroc.value <= point.auroc.high


def test_without_any_leak_held_out_intervals_cover_a_half_and_the_oracle_is_optimistic() -> None:
    config = AnalysisConfig(drop=0.25, bootstrap=200, confidence=0.95, repeats=1)
    lines = [rows_of(summarise(exchangeable(seed), config=config, seed=seed)) for seed in range(100, 140)]
    for row in ("plain", "chosen", "geometry"):
        aurocs = [line[row].heldout_choice.metrics.auroc for line in lines]
        covered = sum(estimate.low <= 0.5 <= estimate.high for estimate in aurocs)
        # P(Binomial(40, 0.95) < 34) = 0.3%; all 40 would be 13% likely.
        assert 34 <= covered <= 40, row
        # One AUROC of 20 and 20 samples has standard deviation sqrt(41 / 4800) = 0.092; four standard errors of 40.
        assert np.mean([estimate.value for estimate in aurocs]) == pytest.approx(0.5, abs=4 * 0.092 / 40**0.5)
    # The best of three timesteps and four shares on 40 and 40 samples (standard deviation 0.065): far above chance.
    assert np.mean([line["chosen"].oracle.metrics.auroc.value for line in lines]) > 0.55
    assert np.mean([line["plain"].oracle.metrics.auroc.value for line in lines]) > 0.53


def test_a_leak_in_the_highest_influences_is_found_by_dropping_the_lowest() -> None:
    lines = rows_of(summarise(planted(2)))
    auroc = {row: line.heldout_choice.metrics.auroc for row, line in lines.items()}
    assert lines["chosen"].heldout_choice.drop == 0.5
    assert lines["chosen"].heldout_choice.timestep == TIMESTEPS[1]
    assert auroc["chosen"].low > auroc["plain"].high
    assert auroc["lowest"].value > auroc["plain"].value > auroc["highest"].value
    assert auroc["lowest"].value > auroc["random"].value


def test_headline_rows_stand_in_a_fixed_order_with_their_drop_shares() -> None:
    headline = summarise(exchangeable(7)).headline
    assert [line.row for line in headline] == ["plain", "lowest", "random", "highest", "chosen", "geometry"]
    assert [line.heldout_choice.drop for line in headline[:4]] == [0.0, 0.25, 0.25, 0.25]
    assert [line.oracle.drop for line in headline[:4] if line.oracle] == [0.0, 0.25, 0.25, 0.25]
    assert {line.attack for line in headline} == {"sima"}


def test_the_grid_holds_every_mask_share_and_timestep() -> None:
    spectra = exchangeable(8)
    grid = summarise(spectra).grid.to_pylist()
    assert len(grid) == 3 * BINS * STEPS
    assert len({(row["mask"], row["drop"], row["timestep"]) for row in grid}) == len(grid)
    for row in grid:
        step = TIMESTEPS.index(row["timestep"])
        expected = naive_auroc(spectra, row["mask"], round(row["drop"] * BINS), step)
        assert row["auroc"] == pytest.approx(expected, abs=1e-12)
    assert set(grid[0]) == {
        "attack",
        "mask",
        "drop",
        "timestep",
        "auroc",
        "asr",
        "tpr_at_1pct_fpr",
        "tpr_at_01pct_fpr",
    } | {"paper_tpr_at_1pct_fpr"}


def test_curves_repeat_the_grid() -> None:
    summary = summarise(exchangeable(9))
    grid = {(row["mask"], row["drop"], row["timestep"]): row["auroc"] for row in summary.grid.to_pylist()}
    for point in (*summary.by_timestep, *summary.by_drop):
        mask = "lowest" if point.mask == "none" else point.mask
        assert point.auroc == grid[mask, point.drop, point.timestep]
        assert (point.mask == "none") == (point.drop == 0)
    assert [(p.drop, p.timestep) for p in summary.by_timestep] == [(q, t) for q in (0.0, 0.25) for t in TIMESTEPS]
    plain = rows_of(summary)["plain"].heldout_choice.timestep
    assert {p.timestep for p in summary.by_drop} == {plain}
    assert len(summary.by_drop) == 3 * BINS


def test_the_members_at_risk_are_those_with_the_highest_scores() -> None:
    spectra = planted(3)
    summary = summarise(spectra)
    chosen = rows_of(summary)["chosen"].heldout_choice
    step = TIMESTEPS.index(chosen.timestep)
    statistic = spectra.by_influence[:, step, round(chosen.drop * BINS) :].astype(float).sum(1)
    names = names_of(spectra)
    members = sorted(np.flatnonzero(spectra.member), key=lambda i: statistic[i])[:10]
    assert [entry.sample_id for entry in summary.at_risk] == [names[i] for i in members]
    for entry, i in zip(summary.at_risk, members, strict=True):
        assert entry.score == pytest.approx(-np.log10(statistic[i]), rel=1e-12)
        above = sum(statistic[j] < statistic[i] for j in np.flatnonzero(~spectra.member))
        total = int((~spectra.member).sum())
        assert entry.heldout_above == above
        assert binom.cdf(above, total, entry.bound) == pytest.approx(0.05, abs=1e-9)
    others = sorted(np.flatnonzero(~spectra.member), key=lambda i: statistic[i])[:10]
    assert [entry.sample_id for entry in summary.highest_heldout] == [names[i] for i in others]
    assert [entry.heldout_above for entry in summary.highest_heldout] == [*range(10)]


def test_a_share_of_all_has_no_bound_below_one() -> None:
    assert share_bound(5, 5) == 1


def test_fewer_members_than_the_list_is_long_are_all_at_risk() -> None:
    assert len(summarise(exchangeable(0, count=8)).at_risk) == 4


def test_distortion_halves_and_quartiles_match_a_loop() -> None:
    spectra = planted(4, count=83)
    rng = np.random.default_rng(0)
    distortion = rng.standard_normal(83).astype(np.float32)
    distortion[rng.choice(83, 10, replace=False)] = np.nan
    summary = summarise(spectra, distortion)
    ordered = sorted((i for i in range(83) if not np.isnan(distortion[i])), key=lambda i: distortion[i])
    assert len(ordered) == 73
    parts = {
        2: [ordered[:37], ordered[37:]],
        4: [ordered[:19], ordered[19:37], ordered[37:55], ordered[55:]],
    }
    assert [(g.row, g.groups, g.group) for g in summary.by_distortion] == [
        (row, groups, number) for row in ("plain", "lowest") for groups in (2, 4) for number in range(1, groups + 1)
    ]
    for group in summary.by_distortion:
        rows = parts[group.groups][group.group - 1]
        held = rows_of(summary)[group.row].heldout_choice
        assert (group.timestep, group.drop) == (held.timestep, held.drop)
        assert (group.members, group.heldout) == (spectra.member[rows].sum(), (~spectra.member[rows]).sum())
        assert (group.low, group.high) == (distortion[rows[0]], distortion[rows[-1]])
        step = TIMESTEPS.index(group.timestep)
        expected = naive_auroc(spectra.take(np.array(rows)), "lowest", round(group.drop * BINS), step)
        assert group.auroc is not None
        assert group.auroc.value == pytest.approx(expected, abs=1e-12)


def test_a_quartile_without_members_has_no_auroc() -> None:
    spectra = exchangeable(10)
    groups = summarise(spectra, np.where(spectra.member, 1.0, 0.0) + np.arange(80) / 1000).by_distortion
    assert [(g.members, g.heldout, g.auroc) for g in groups if g.row == "plain" and g.groups == 4] == [
        (0, 20, None)
    ] * 2 + [(20, 0, None)] * 2


@pytest.mark.parametrize("measured", [0, 3])
def test_without_distortion_there_are_no_quartiles(measured: int) -> None:
    distortion = np.full(80, np.nan)
    distortion[:measured] = 1.0
    assert summarise(exchangeable(11), distortion).by_distortion == []


def test_roc_points_lie_on_the_curve_of_the_first_halvings_report_half() -> None:
    spectra = planted(5, count=1200)
    summary = summarise(spectra, config=CONFIG.model_copy(update={"repeats": 1}))
    held = spectra.take(halves(spectra.member, 0, 0)[1])
    for row, line in rows_of(summary).items():
        points = [(p.fpr, p.tpr) for p in summary.roc if p.row == row]
        assert points == sorted(set(points))
        assert points[-1] == (1.0, 1.0)
        assert len(points) <= ROC_POINTS + 1
        if row != "geometry":
            step = TIMESTEPS.index(line.heldout_choice.timestep)
            scores = held.scores(Mask(judged_mask(row, line)), round(line.heldout_choice.drop * BINS))[:, step]
            on_curve = {((scores[~held.member] >= s).mean(), (scores[held.member] >= s).mean()) for s in scores}
            assert set(points) <= on_curve | {(0.0, 0.0)}
        # The published rates can be read off the points.
        at_1pct = max(tpr for fpr, tpr in points if fpr <= 0.01)
        assert at_1pct == line.heldout_choice.metrics.tpr_at_1pct_fpr.value


def test_metric_sets_carry_each_value_in_its_own_interval() -> None:
    spectra = planted(6)
    scores = spectra.scores(Mask.LOWEST, 2)[:, 1]
    _, metrics = metric_sets([scores - 9, scores], spectra.member, CONFIG, 0)
    assert metrics.auroc.value == pytest.approx(roc_auc_score(spectra.member, scores), abs=1e-12)
    for estimate in (metrics.auroc, metrics.asr, metrics.tpr_at_1pct_fpr, metrics.tpr_at_01pct_fpr):
        assert estimate.low <= estimate.value <= estimate.high


def test_attacks_that_are_looked_at_together_reach_what_each_does_alone() -> None:
    member, distortion = make_member(80), np.random.default_rng(1).standard_normal(80)
    attacks = []
    for seed in (1, 2):
        rows = replace(exchangeable(seed), member=member)
        attacks.append(Choices.of(rows, rows.scans(CONFIG, 0, distortion), CONFIG))
    groups = distortion_groups(distortion)
    oracles = oracle_metrics(attacks, member, CONFIG, 0)
    for number, choices in enumerate(attacks):
        assert oracles[number] == oracle_metrics([choices], member, CONFIG, 0)[0]
        assert set(oracles[number]) == set(choices.cuts)
        for row, metrics in oracles[number].items():
            assert metrics == metric_sets([choices.columns[choices.best(row)]], member, CONFIG, 0)[0]
        for group in groups:
            together = group_aurocs(attacks, group, member, CONFIG, 0)[number]
            assert together == group_aurocs([choices], group, member, CONFIG, 0)[0]
            scores = choices.column("lowest")[group.rows]
            assert together["lowest"] == metric_sets([scores], member[group.rows], CONFIG, 0)[0].auroc


def test_the_same_rows_and_seed_give_the_same_summary_and_another_seed_other_halves() -> None:
    spectra = exchangeable(12)
    first, again, other = (summarise(spectra, seed=seed) for seed in (0, 0, 1))
    assert first.headline == again.headline
    assert first.roc == again.roc
    assert first.headline != other.headline
    assert first.grid.equals(other.grid)


@pytest.mark.parametrize(
    ("heldout", "levels"),
    [(24, ["1.0%", "0.1%"]), (1998, ["1.0%", "0.1%"]), (2000, ["0.1%"]), (19998, ["0.1%"]), (20000, [])],
)
def test_levels_that_fewer_than_ten_held_out_samples_decide_are_warned_of(heldout: int, levels: list[str]) -> None:
    warnings = level_warnings(heldout)
    assert [warning.split(" FPR")[0] for warning in warnings] == [f"TPR at {level}" for level in levels]
    assert all(f" {heldout // 2} held-out samples" in warning for warning in warnings)


def test_a_warning_says_how_many_may_be_misjudged() -> None:
    assert "at most 3 may" in level_warnings(601)[0]
    assert "at most 0 may" in level_warnings(601)[1]
