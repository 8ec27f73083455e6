"""Runs over the same samples side by side."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ldm_scale.analysis.paired import ComparedScores, compare_attack
from ldm_scale.analysis.results import RowName
from ldm_scale.analysis.splithalf import halves
from ldm_scale.config.audit import AnalysisConfig

CONFIG = AnalysisConfig(repeats=3, bootstrap=200)
MEMBER = np.arange(400) % 2 == 0
IDS = [f"shard/{number:03d}" for number in range(400)]
ROWS: tuple[RowName, ...] = ("plain", "lowest")


def make_scores(gain: float, noise: float = 0.0) -> ComparedScores:
    """Scores of two timesteps and two rows, the same but for a members' gain and a little noise of its own."""
    shared, own = np.random.default_rng(0), np.random.default_rng(1)
    scores = shared.normal(size=(2, 2, 400)) + gain * MEMBER + noise * own.normal(size=(2, 2, 400))
    return ComparedScores((0, 10), dict(zip(ROWS, scores, strict=True)))


def test_each_run_is_judged_on_the_halves_that_did_not_choose_its_timestep() -> None:
    runs = [make_scores(0.5), make_scores(1.0, 0.3)]
    found = compare_attack("sima", runs, MEMBER, IDS, CONFIG, seed=0)
    for row in found.rows:
        aurocs = []
        for halving in range(3):
            choose, report = halves(MEMBER, 0, halving)
            scores = runs[row.run].rows[row.row]
            step = int(np.argmax([roc_auc_score(MEMBER[choose], column[choose]) for column in scores]))
            aurocs.append(roc_auc_score(MEMBER[report], scores[step, report]))
        assert row.metrics.auroc.value == pytest.approx(np.mean(aurocs), abs=1e-12)
    first, second = (next(row for row in found.rows if (row.run, row.row) == (run, "lowest")) for run in (0, 1))
    assert first.difference is None
    assert second.difference is not None
    change = second.metrics.auroc.value - first.metrics.auroc.value
    assert second.difference.auroc.value == pytest.approx(change, abs=1e-12)


def test_differences_are_paired() -> None:
    """Of two runs that share most of their noise, much less is luck than of two that share none."""
    row = next(
        row
        for row in compare_attack("sima", [make_scores(0.5), make_scores(0.7)], MEMBER, IDS, CONFIG, 0).rows
        if row.run
    )
    assert row.difference is not None
    auroc, change = row.metrics.auroc, row.difference.auroc
    assert change.high - change.low < (auroc.high - auroc.low) / 3
    assert change.low > 0


def test_a_run_does_not_differ_from_itself() -> None:
    found = compare_attack("sima", [make_scores(0.5), make_scores(0.5)], MEMBER, IDS, CONFIG, 0)
    assert [row.difference.auroc.value for row in found.rows if row.difference] == [0, 0]
    assert [pair.correlation for pair in found.agreement] == [pytest.approx(1)]
    assert found.changed == []


def test_members_whose_risk_changed_most_are_named() -> None:
    before = ComparedScores(
        (None,), {"plain": np.where(MEMBER, 0.5 + np.arange(400) / 1e6, np.arange(400) / 400)[None]}
    )
    moved = before.rows["plain"].copy()
    moved[0, 8], moved[0, 4] = 2.0, 0.9
    after = ComparedScores((None,), {"plain": moved})
    first, second = compare_attack("sima", [before, after], MEMBER, IDS, CONFIG, 0).changed
    assert (first.sample_id, first.after, second.sample_id) == (IDS[8], 0.0, IDS[4])
    assert first.before == pytest.approx(np.mean(before.rows["plain"][0][~MEMBER] > 0.501))
