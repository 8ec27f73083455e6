"""The report: complete, self-contained, escaped, and the same bytes each time."""

import base64
import html
import io
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from ldm_scale.analysis.ranking import RankingSums, ranking_table
from ldm_scale.analysis.results import (
    BinPoint,
    BlindControl,
    Choice,
    Combined,
    DatasetInference,
    DistortionGroup,
    Estimate,
    Headline,
    HeldoutChoice,
    Leakage,
    MetricSet,
    PaperCell,
    PaperGroup,
    PaperRow,
    Point,
    Relative,
    RelativeRow,
    Results,
    RocPoint,
    ScoredSample,
    Stability,
    Telltale,
)
from ldm_scale.analysis.suspects import SuspectRow, Suspects, SuspectScore
from ldm_scale.config.audit import AuditConfig, GeometryConfig, MaskConfig
from ldm_scale.data.manifest import Manifest, read_manifest, write_manifest
from ldm_scale.data.samples import Sample
from ldm_scale.errors import ExistsError, UsageError
from ldm_scale.files.digests import digest
from ldm_scale.files.ownership import own
from ldm_scale.files.parts import Expected
from ldm_scale.files.reductions import RANKING, write_reduction
from ldm_scale.files.rundir import RunDirectory, RunRecord
from ldm_scale.files.storage import Location
from ldm_scale.report.blind import LEVEL, MISSING, confounds, warned
from ldm_scale.report.claims import CLAIMS, Finding, filtered, findings, lede
from ldm_scale.report.export import write_files
from ldm_scale.report.facts import facts
from ldm_scale.report.figures import Plot
from ldm_scale.report.headline import read_results
from ldm_scale.report.labels import at_step, choice_label, p_label, row_label, step_label
from ldm_scale.report.page import write_report
from ldm_scale.report.pictures import Picture, read_pictures
from ldm_scale.report.plots import plot_by_bin, plot_by_distortion, plot_by_timestep, plot_roc
from ldm_scale.report.suspects import suspects_page
from ldm_scale.report.table import print_results
from ldm_scale.report.verdict import beats_chance, evidence, verdict
from ldm_scale.schema import REJECT
from tests.shards import write_shards

ATTACK = "<script>alert(1)</script>"
# Has what follows run from right to left.
TURN = "\u202e"
SHAPE = (4, 2, 2)
STEPS = (0, 10, 20, 30)
# Row to what it leaves out, and how much of it.
ROWS = {
    "plain": ("none", 0.0),
    "lowest": ("lowest", 0.4),
    "global": ("global", 0.4),
    "random": ("random", 0.4),
    "highest": ("highest", 0.4),
    "chosen": ("lowest", 0.25),
    "geometry": ("none", 0.0),
}
LABELS = {
    "plain": "plain all dimensions kept",
    "lowest": "lowest 40% dropped the paper's filter",
    "global": "global lowest 40% one ranking for all samples",
    "random": "random 40% dropped control",
    "highest": "highest 40% dropped reversed control",
    "chosen": "chosen: lowest 25% side and share also chosen",
    "geometry": "geometry-adjusted minus what geometry predicts",
}
SEVEN = ("sima", "secmi", "pia", "pian", "epsilon", "loss", "pfami")
PROFILE = b"bytes of a stored colour profile"
REJECTED = {"sample_id": "heldout-000000/h<5>", "stage": "decode", "reason": "no <b>image</b>: 0 bytes"}


def _png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", icc_profile=PROFILE)
    return buffer.getvalue()


def _estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.05, high=value + 0.05)


def _metrics(value: float) -> MetricSet:
    values = (value, value - 0.1, value / 4, value / 16, value / 2)
    return MetricSet(**{name: _estimate(v) for name, v in zip(MetricSet.model_fields, values, strict=True)})


def _choice(value: float, timestep: int | None, mask: str, drop: float) -> dict[str, Any]:
    delong = Estimate(value=value, low=value - 0.04, high=value + 0.04)
    return {"timestep": timestep, "mask": mask, "drop": drop, "metrics": _metrics(value), "delong": delong}


def _headline(attack: str, base: float, averaged: bool) -> list[Headline]:
    rows = []
    for i, (row, (mask, drop)) in enumerate(ROWS.items()):
        steps = (None, None) if averaged else (STEPS[i % 4], STEPS[(i + 1) % 4])
        value, difference = base + 0.011 * i, None if row == "plain" else _metrics(0.011 * i)
        held = HeldoutChoice(
            **_choice(value, steps[0], mask, drop),
            agreement=0.9 - i / 10,
            difference=difference,
            delong_difference=None,
        )
        oracle = None if row == "geometry" else Choice(**_choice(value + 0.003, steps[1], mask, drop))
        rows.append(Headline(attack=attack, row=row, heldout_choice=held, oracle=oracle))
    return rows


def _by_drop(attack: str, averaged: bool) -> list[Point]:
    step = None if averaged else 10
    return [
        Point(attack=attack, mask=mask if share else "none", drop=share / 4, timestep=step, auroc=0.7 + share / 50)
        for mask in ("lowest", "global", "random", "highest")
        for share in range(4)
    ]


def _by_timestep(attack: str, averaged: bool) -> list[Point]:
    masks = (("none", 0.0), ("lowest", 0.4))
    return [
        Point(attack=attack, mask=mask, drop=drop, timestep=t, auroc=0.6 + (t or 0) / 1000)
        for mask, drop in masks
        for t in ((None,) if averaged else STEPS)
    ]


def _by_bin(attack: str, averaged: bool) -> list[BinPoint]:
    step = None if averaged else 10
    return [BinPoint(attack=attack, bin=i, timestep=step, auroc=_estimate(0.55 + i / 50)) for i in range(5)]


def _by_distortion(attack: str) -> list[DistortionGroup]:
    return [
        DistortionGroup(
            attack=attack,
            row=row,
            groups=groups,
            group=group,
            low=group - 9.0,
            high=group - 8.5,
            members=12 // groups,
            heldout=12 // groups if group > 1 else 0,
            timestep=10,
            drop=0.0 if row == "plain" else 0.4,
            auroc=_estimate(0.6 + group / 20) if group > 1 else None,
        )
        for row in ("plain", "lowest")
        for groups in (2, 4)
        for group in range(1, groups + 1)
    ]


def _paper(attack: str, averaged: bool) -> list[PaperRow]:
    """Every cell another number, at timesteps in turn."""

    def cell(number: int) -> PaperCell:
        return PaperCell(value=0.8 + number / 1000, timestep=None if averaged else STEPS[number % 4])

    def group(groups: int, number: int, first: int) -> PaperGroup:
        return PaperGroup(groups=groups, group=number, auroc=None if number == 1 else cell(first + groups + number))

    return [
        PaperRow(
            attack=attack,
            row=row,
            drop=ROWS[row][1],
            auroc=cell(20 * i),
            asr=cell(20 * i + 1),
            tpr_at_1pct_fpr=cell(20 * i + 2),
            by_distortion=tuple(group(n, number, 20 * i) for n in (2, 4) for number in range(1, n + 1)),
        )
        for i, row in enumerate(("plain", "lowest", "random", "highest"))
    ]


def _combined() -> Combined:
    inference = DatasetInference(p_value=0.003, statistic=2.9, tests=20, detectable=0.6, members=3, heldout=2)
    return Combined(features=1200, metrics=_metrics(0.81), delong=_estimate(0.81), inference=inference)


def _control(auroc: float, p: float, *told: Telltale) -> BlindControl:
    inference = DatasetInference(p_value=p, statistic=0.1, tests=20, detectable=0.6, members=3, heldout=2)
    names = ("class", "width", "latent mean")
    return BlindControl(features=names, auroc=_estimate(auroc), inference=inference, p_value=p, told_by=told)


def _relative(attacks: Sequence[str]) -> Relative:
    """Every number another one."""
    rows = (
        RelativeRow(
            attack=name,
            heldout_choice=HeldoutChoice(
                **_choice(0.871 - i / 100, 20, "none", 0.0),
                agreement=0.7,
                difference=_metrics(0.067),
                delong_difference=_estimate(0.067),
            ),
            reference=_estimate(0.523),
            members_lower=0.825,
            heldout_lower=0.475,
        )
        for i, name in enumerate(attacks)
    )
    return Relative(target="4" * 64, fingerprint="f" * 64, members=5, heldout=4, left_out=2, rows=tuple(rows))


def _results(attacks: Sequence[str], at_risk: Sequence[str], base: float) -> Results:
    rates = np.linspace(0, 1, 5)
    # Attack to whether it is averaged over its timesteps.
    seen = {name: name == "pfami" for name in attacks}
    return Results(
        fingerprint="0123456789abcdef",
        inputs={"shards": "5" * 64, "split": "feedc0ffee" * 6, "target": "7" * 64},
        members=6,
        heldout=5,
        expected=12,
        rejected={"decode: no <b>image</b>": 1},
        distortion_measured=11,
        distortion_estimate=None,
        stability=Stability(correlation=0.912, overlap=0.83, probes=16),
        repeats=7,
        bootstrap=100,
        confidence=0.9,
        headline=tuple(
            row for i, (name, mean) in enumerate(seen.items()) for row in _headline(name, base - i / 10, mean)
        ),
        paper=tuple(row for name, mean in seen.items() for row in _paper(name, mean)),
        combined=_combined(),
        blind=_control(0.51, 0.4),
        names=_control(0.52, 0.3),
        relative=_relative(attacks),
        leakage=Leakage(attack=attacks[0], timestep=10, correlation=_estimate(0.3)),
        by_timestep=tuple(point for name, mean in seen.items() for point in _by_timestep(name, mean)),
        by_drop=tuple(point for name, mean in seen.items() for point in _by_drop(name, mean)),
        by_bin=tuple(point for name, mean in seen.items() for point in _by_bin(name, mean)),
        by_distortion=tuple(group for name in attacks for group in _by_distortion(name)),
        roc=tuple(
            RocPoint(attack=name, row=row, fpr=rate, tpr=rate**0.5)
            for name in attacks
            for row in ROWS
            for rate in rates
        ),
        at_risk=tuple(
            ScoredSample(sample_id=name, attack=attacks[0], score=1.5 - i, heldout_above=i, bound=0.451)
            for i, name in enumerate(at_risk)
        ),
        highest_heldout=(
            ScoredSample(sample_id="heldout-000000/h1", attack=attacks[0], score=1.25, heldout_above=0, bound=0.451),
        ),
        warnings=("too few held-out & more",),
        versions={"ldm_scale": "0.1.0"},
    )


def _shards(folder: Location) -> str:
    """Two shards of three members, one of them hostile and one broken; returns what the run record knows of them."""
    captions = ((TURN + ATTACK,), ("a quiet picture",), ())
    samples = [
        Sample(f"m{i}", _png(i) if i != 4 else b"no picture", "png", captions[i % 3], label=i % 2) for i in range(6)
    ]
    infos = write_shards(samples, folder, "members", max_samples=3)
    write_manifest(folder, Manifest(shards=tuple(infos), classes=("cat", "<i>dog</i>")))
    return digest([info.sha256 for info in infos])


def _make_run(folder: Path, attacks: Sequence[str] = ("sima",), base: float = 0.7) -> RunDirectory:
    shards = Location.of(folder / "shards")
    content = _shards(shards)
    run = RunDirectory(Location.of(folder / "run"))
    run.begin(
        RunRecord(
            fingerprint="0123456789abcdef",
            science={"shards": content, "split": "feedc0ffee"},
            config=AuditConfig(out=str(run.root), shards=str(shards), target="/models/<u>x</u>", attacks=list(attacks)),
            latent_shape=SHAPE,
            timesteps=dict.fromkeys(attacks, STEPS),
            expected=Expected(members={"members-000000": 3, "members-000001": 3}, heldout={"heldout-000000": 6}),
            versions={},
        )
    )
    schema = REJECT.with_metadata({"fingerprint": "0123456789abcdef"})
    run.commit(REJECT.empty_table(), pa.Table.from_pylist([REJECTED], schema=schema))
    ids = [f"members-{i // 3:06d}/m{i}" for i in (0, 1, 4, 5)]
    results = _results(attacks, ids, base)
    _write_results(run, results.model_dump_json().encode())
    return run


def _write_results(run: RunDirectory, results: bytes) -> None:
    """Another reduction, with a ranking of its own."""
    influence = np.random.default_rng(0).normal(size=(11, 16)).astype(np.float16)
    ranking = ranking_table(RankingSums.of(influence, 8, 20), SHAPE, np.linspace(0.4, 0.6, 16))
    with own(run.root, pytest.fail) as owner:
        write_reduction(owner, results, {RANKING: ranking})


def _edit_results(run: RunDirectory, **changes: object) -> None:
    _write_results(run, json.dumps(_content(run) | changes).encode())


def _content(run: RunDirectory) -> dict[str, Any]:
    return json.loads(run.reduction().read_results())


def _write_report(run: RunDirectory) -> Location:
    with own(run.root, pytest.fail) as owner:
        return write_report(run, owner)


def _report(run: RunDirectory) -> str:
    return _write_report(run).read_text()


def _text(page: str) -> str:
    """What a reader sees: tags dropped, entities resolved, white space collapsed."""
    body = re.sub(r"<style>.*?</style>", " ", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return _make_run(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(run: RunDirectory) -> str:
    return _report(run)


def test_page_loads_nothing(page: str) -> None:
    sources = re.findall(r"""(?:src|href|srcset|action|data)\s*=\s*["']?([^"'\s>]+)""", page)
    assert sources
    assert all(source.startswith(("data:image/svg+xml;base64,", "data:image/png;base64,")) for source in sources)
    assert not re.search(r"<script|<link|<iframe|<object|@import|url\(", page)


def _cell(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} {estimate.low:.3f} to {estimate.high:.3f}"


def test_every_headline_row_shows_its_numbers(run: RunDirectory, page: str) -> None:
    text = _text(page)
    for row in read_results(run.reduction()).headline:
        held, metrics = row.heldout_choice, row.heldout_choice.metrics
        change = held.difference and held.difference.auroc
        signed = f"{change.value:+.3f} {change.low:+.3f} to {change.high:+.3f}" if change else ""
        oracle = f"{row.oracle.metrics.auroc.value:.3f} {choice_label(row.oracle)}" if row.oracle else ""
        parts = (
            *(LABELS[row.row], str(held.timestep), f"{held.agreement:.0%} agree", _cell(metrics.auroc)),
            *(signed, _cell(metrics.asr), _cell(metrics.tpr_at_1pct_fpr), _cell(metrics.tpr_at_01pct_fpr), oracle),
        )
        assert " ".join(filter(None, parts)) in text, row.row


def test_a_difference_is_shown_with_its_sign(page: str) -> None:
    text = _text(page)
    assert "AUROC minus plain ASR" in text
    assert "0.711 0.661 to 0.761 +0.011 -0.039 to +0.061 0.611" in text
    assert "all dimensions kept 0 90% agree 0.700 0.650 to 0.750 0.600 0.550 to 0.650" in text


def test_papers_table_has_each_cell_with_its_own_timestep_in_percent(page: str) -> None:
    text = _text(page)
    table = text[text.index("The paper's table, by its authors' own rules") : text.index("How the attack behaves")]
    assert "AUC, quarter 1 AUC, quarter 2 AUC, quarter 3 AUC, quarter 4 AUC, half 1 AUC, half 2 plain" in table
    # The first quarter and the first half have one side alone.
    assert (
        "plain 80.00 t 0 80.10 t 10 80.20 t 20 80.60 t 20 80.70 t 30 80.80 t 0 80.40 t 0 "
        "lowest dropped 82.00 t 0 82.10 t 10" in table
    )
    assert "random dropped 84.00 t 0" in table
    assert "highest dropped 86.00 t 0 86.10 t 10 86.20 t 20" in table
    assert not re.search("chosen|geometry-adjusted|global", table)
    assert "Optimistic, and only for use beside the paper's numbers." in table
    assert "strictly less than 1% of members" in table
    assert "half of them by distortion" in table


def test_papers_table_without_distortion_or_timesteps(tmp_path: Path) -> None:
    run = _make_run(tmp_path, attacks=("pfami",))
    content = _content(run)
    _edit_results(run, paper=[row | {"by_distortion": []} for row in content["paper"]])
    text = _text(_report(run))
    assert "plain 80.00 all t 80.10 all t 80.20 all t lowest dropped 82.00 all t" in text
    assert "AUC, quarter" not in text
    assert "half of them by distortion" not in text


def test_combined_score_and_dataset_inference(page: str) -> None:
    text = _text(page)
    assert "All timesteps together" in text
    assert f"combined from 1,200 features {_cell(_estimate(0.81))} {_cell(_estimate(0.71))}" in text
    assert "with probability p = 0.003 (twice the median of 20 one-sided Welch's t-tests" in text


def test_scores_relative_to_a_reference(tmp_path: Path, page: str) -> None:
    row = f"sima 20 {_cell(_estimate(0.871))} +0.067 +0.017 to +0.117 {_cell(_estimate(0.871 / 4))} 82.5% 47.5%"
    text = _text(page)
    assert f"{row} {_cell(_estimate(0.523))}" in text
    assert "Of the 5 members and 4 held-out images that both models have a row of (2 left out)" in text
    run = _make_run(tmp_path)
    _edit_results(run, relative=None)
    assert "Relative to a reference" not in _text(_report(run))


def test_suspects_alone_have_a_page_that_says_what_it_is_not() -> None:
    found = Suspects(
        fingerprint="f" * 64,
        target="1" * 64,
        reference_fingerprint="2" * 64,
        reference="3" * 64,
        suspects=40,
        left_out=2,
        confidence=0.9,
        rows=(SuspectRow(attack="sima", lower=30, share=_estimate(0.75), median=0.125),),
        highest=(SuspectScore(sample_id=ATTACK, attack="sima", score=0.5),),
    )
    page = suspects_page(found).decode()
    text = _text(page)
    assert "30 of 40 suspects have a lower statistic in the target" in text
    assert "in the reference (75%, 90% interval 70% to 80%); median score +0.125" in text
    assert "no p-value of membership" in text
    assert "2 suspects are left out" in text
    assert html.escape(ATTACK) in page
    assert ATTACK not in page
    assert re.search("https?:", page) is None


def test_latent_section_knows_leakage_and_stability(page: str) -> None:
    text = _text(page)
    assert "alone (sima, t 10) have a rank correlation of +0.300 (90% interval +0.250 to +0.350)" in text
    assert "one half of a sample's 16 probes and from the other correlate by 0.912" in text
    assert "their lowest 40% share 83% of the dimensions" in text


def test_verdict_follows_the_chosen_row(page: str) -> None:
    text = _text(page)
    assert "in 75% of cases (AUROC 0.755 in its chosen row, 90% interval 0.705 to 0.805); chance is 50%" in text
    assert "lies above chance" in text
    assert "For sima, AUROC is 0.700 with all latent dimensions, 0.711 without the 40% of lowest influence," in text
    assert "influence, 0.733 without 40% at random, and 0.744 without the 40% of highest influence." in text


def _with_change(results: Results, name: str, change: MetricSet) -> Results:
    """The same results with another paired difference of the rows of one name."""
    rows = [
        row.model_copy(update={"heldout_choice": row.heldout_choice.model_copy(update={"difference": change})})
        if row.row == name
        else row
        for row in results.headline
    ]
    return results.model_copy(update={"headline": tuple(rows)})


def _quartiles(results: Results, first: float | None, last: float | None) -> Results:
    """The same results with other AUROCs, give or take 0.05, in the first and the last quartile of the plain rows."""
    values = {1: first, 4: last}
    groups = [
        group.model_copy(update={"auroc": None if values[group.group] is None else _estimate(values[group.group])})
        if (group.row, group.groups) == ("plain", 4) and group.group in values
        else group
        for group in results.by_distortion
    ]
    return results.model_copy(update={"by_distortion": tuple(groups)})


LOWER, NOTHING, HIGHER = -0.06, 0.011, 0.06
INTERVALS = {
    LOWER: "-0.060, -0.110 to -0.010",
    NOTHING: "+0.011, -0.039 to +0.061",
    HIGHER: "+0.060, +0.010 to +0.110",
}


@pytest.mark.parametrize(
    ("row", "subject", "answers"),
    [
        ("lowest", "AUROC", {LOWER: "disagrees on", NOTHING: "cannot tell on", HIGHER: "agrees on"}),
        ("random", "the random control", {LOWER: "agrees on", NOTHING: "cannot tell on", HIGHER: "disagrees on"}),
    ],
)
@pytest.mark.parametrize("change", INTERVALS)
def test_the_lede_asks_the_paired_differences(row: str, subject: str, answers: dict[float, str], change: float) -> None:
    results = _with_change(_results(("sima",), (), 0.7), row, _metrics(change))
    (found,) = [finding for finding in findings(results, "sima") if finding.subject == subject]
    assert found.answer == answers[change]
    assert str(found) == f"{subject} ({INTERVALS[change]})"


@pytest.mark.parametrize(("change", "answer"), [(-0.2, "disagrees on"), (0.08, "cannot tell on"), (0.2, "agrees on")])
def test_the_lede_asks_the_papers_own_rate(change: float, answer: str) -> None:
    """Held-out samples are its positives; the metrics that were made up put it at half of their AUROC."""
    results = _with_change(_results(("sima",), (), 0.7), "lowest", _metrics(change))
    many = results.model_copy(update={"members": 1999})
    assert findings(many, "sima")[1].answer == answer
    assert str(findings(many, "sima")[1]).startswith(f"TPR ({change / 2:+.3f}, ")
    # Half of so many misjudge fewer than ten at 1%.
    few = results.model_copy(update={"members": 1998})
    assert str(findings(few, "sima")[1]) == "TPR (not judged)"


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [
        # 0.05 and 0.05 to either side are 0.071 of the difference.
        (0.6, 0.68, "agrees on distortion (+0.080, +0.009 to +0.151)"),
        (0.6, 0.66, "cannot tell on distortion (+0.060, -0.011 to +0.131)"),
        (0.68, 0.6, "disagrees on distortion (-0.080, -0.151 to -0.009)"),
        (None, 0.7, "cannot tell on distortion (not judged)"),
        (0.7, None, "cannot tell on distortion (not judged)"),
    ],
)
def test_the_lede_asks_the_first_and_the_last_quartile(first: float | None, last: float | None, said: str) -> None:
    found = findings(_quartiles(_results(("sima",), (), 0.7), first, last), "sima")[-1]
    assert f"{found.answer} {found}" == said


def test_without_distortion_the_lede_cannot_tell() -> None:
    results = _results(("sima",), (), 0.7).model_copy(update={"by_distortion": ()})
    assert str(findings(results, "sima")[-1]) == "distortion (not judged)"


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize(("value", "said"), [(0.1, "AUROC (+0.100, +nan to +nan)"), (math.nan, "AUROC (not judged)")])
def test_of_numbers_that_are_none_the_lede_cannot_tell(positive: bool, value: float, said: str) -> None:
    """There may be too few samples for an interval, or for the number itself."""
    found = Finding("AUROC", Estimate(value=value, low=math.nan, high=math.nan), positive)
    assert (found.answer, str(found)) == ("cannot tell on", said)


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize(("low", "high"), [(0.0, 0.2), (-0.2, 0.0), (0.0, 0.0)])
def test_of_an_interval_that_touches_zero_the_lede_cannot_tell(positive: bool, low: float, high: float) -> None:
    assert Finding("AUROC", Estimate(value=(low + high) / 2, low=low, high=high), positive).answer == "cannot tell on"


def test_the_lede_groups_the_claims_by_answer() -> None:
    results = _with_change(_results(("sima",), (), 0.7), "random", _metrics(LOWER))
    claims, said = lede(_quartiles(results, 0.8, 0.6))
    assert claims == CLAIMS
    assert said == (
        "For sima with 40% dropped, this run agrees on the random control (-0.060, -0.110 to -0.010); disagrees on "
        "distortion (-0.200, -0.271 to -0.129); cannot tell on AUROC (+0.011, -0.039 to +0.061) and TPR (not "
        "judged)."
    )


def test_the_lede_of_several_attacks_counts_them() -> None:
    results = _results(SEVEN[:3], (), 0.7)
    changed = _with_change(results, "lowest", _metrics(HIGHER)).headline
    mixed = [new if new.attack == "pia" else old for old, new in zip(results.headline, changed, strict=True)]
    said = lede(results.model_copy(update={"headline": tuple(mixed)}))[1]
    assert said.startswith("For sima with 40% dropped, this run cannot tell on AUROC (+0.011")
    assert "Of the 3 attacks that it can change, " in said
    assert said.endswith("dropping the lowest clearly raises AUROC for 1 and clearly lowers it for 0.")
    assert "Of the" not in lede(_results(("sima",), (), 0.7))[1]


def _unfiltered(results: Results, attack: str, auroc: float) -> Results:
    """The same results with one AUROC in all rows of an attack, whatever they drop."""
    rows = [
        row.model_copy(update={"heldout_choice": row.heldout_choice.model_copy(update={"metrics": _metrics(auroc)})})
        if row.attack == attack
        else row
        for row in results.headline
    ]
    return results.model_copy(update={"headline": tuple(rows)})


def test_the_lede_asks_no_attack_that_dropping_cannot_change() -> None:
    """PFAMI as published is one number a sample; strong or not, it says nothing of the claims."""
    results = _unfiltered(_results(SEVEN[:3], (), 0.7), "sima", 0.95)
    assert filtered(results) == ["secmi", "pia"]
    said = lede(results)[1]
    assert said.startswith("For secmi with 40% dropped, this run ")
    assert "Of the 2 attacks that it can change, " in said
    assert verdict(results)[0].startswith(
        "An attacker who scores a random member against a random held-out image with sima"
    )


def test_the_lede_of_such_an_attack_alone_cannot_tell() -> None:
    results = _with_change(_unfiltered(_results(("sima",), (), 0.7), "sima", 0.95), "lowest", _metrics(0.0))
    assert filtered(results) == []
    assert lede(results)[1].startswith("For sima with 40% dropped, this run cannot tell on AUROC (+0.000")


def test_the_page_opens_with_p_and_its_blind_control_and_ends_its_lede_with_the_papers_claims(page: str) -> None:
    text = _text(page)
    title, opening, control, attack, claims = (
        text.index(said)
        for said in (
            "How much did this model memorise?",
            "If the target had never seen the members, their combined scores would be this far above those of "
            "held-out images with p = 0.003.",
            "the same test without the denoiser, gives AUROC 0.510 (0.460 to 0.560), p = 0.4.",
            "An attacker who scores",
            f"{CLAIMS} For sima with 40% dropped, this run ",
        )
    )
    assert title < opening < control < attack < claims


@pytest.mark.parametrize(
    ("p", "blind", "names", "meaning"),
    [
        (0.049, 0.4, 0.3, "This is evidence that the set as a whole was trained on, provided"),
        (0.049, 0.4, 0.3, "from one distribution; it says"),
        (0.05, 0.4, 0.3, "This is no evidence"),
        (1e-9, 0.04, 0.3, "The p-value is no evidence of training"),
        # No model sees names: official splits differ in them.
        (1e-9, 0.4, 0.04, "provided that both sides come from one distribution, which their names leave open; it"),
    ],
)
def test_what_p_means_depends_on_the_blind_control(p: float, blind: float, names: float, meaning: str) -> None:
    results = _results(("sima",), (), 0.7)
    inference = results.combined.inference.model_copy(update={"p_value": p})
    changes = {"blind": _control(0.6, blind), "names": _control(0.6, names)}
    changes["combined"] = results.combined.model_copy(update={"inference": inference})
    _, said = evidence(results.model_copy(update=changes))
    assert meaning in said
    assert "(3 members, 2 held-out) show training in four of five cases if the combined AUROC is 0.60 or more" in said


@pytest.mark.parametrize(("heldout", "trusted"), [(1999, True), (1998, False)])
def test_the_lede_has_no_rate_that_rests_on_too_few(heldout: int, trusted: bool) -> None:
    results = _results(("sima",), (), 0.7).model_copy(update={"heldout": heldout})
    assert ("it finds" in verdict(results)[1]) == trusted


def test_facts_say_when_everything_was_fixed(run: RunDirectory) -> None:
    record, results = run.read_record(), read_results(run.reduction())
    assert "Fixed" not in dict(facts(results, record))
    fixed = record.model_copy(update={"fixed": datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)})
    assert "2026-03-04 05:06:07 UTC" in dict(facts(results, fixed))["Fixed"]


def test_facts_say_when_the_last_rows_came_and_how_long_that_took(run: RunDirectory) -> None:
    record, results = run.read_record(), read_results(run.reduction())
    assert "Last rows" not in dict(facts(results, record))
    latest = datetime(2026, 3, 4, 6, 6, 8, tzinfo=UTC)
    assert dict(facts(results, record, latest))["Last rows"] == "2026-03-04 06:06:08 UTC by the time of their file"
    fixed = record.model_copy(update={"fixed": datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)})
    assert dict(facts(results, fixed, latest))["Last rows"].endswith(", 1 h 0 min after that")


def test_the_page_has_command_versions_digests_and_configuration_outside_of_what_folds(page: str) -> None:
    unfolded = _text(re.sub(r"<details.*?</details>", "", page, flags=re.DOTALL))
    assert "Command ldm-scale audit --shards " in unfolded
    assert "target, SHA-256" in unfolded
    assert "max_reject_fraction: 0.01" in unfolded


def test_files_are_the_figures_and_every_list_of_the_results(run: RunDirectory, page: str, tmp_path: Path) -> None:
    folder = Location.of(str(tmp_path))
    assert {file.name for file in write_files(run, folder)} == {path.name for path in tmp_path.iterdir()}
    for svg in tmp_path.glob("*.svg"):
        assert Plot(svg.read_bytes(), "").uri in page
    results = read_results(run.reduction())
    headline = pd.read_csv(tmp_path / "headline.csv")
    aurocs = [row.heldout_choice.metrics.auroc.value for row in results.headline]
    assert headline["heldout_choice.metrics.auroc.value"].tolist() == pytest.approx(aurocs, rel=1e-12)
    assert len(pd.read_csv(tmp_path / "roc.csv")) == len(results.roc)
    groups = pd.read_csv(tmp_path / "paper_by_distortion.csv")
    aurocs = [g.auroc.value if g.auroc else math.nan for row in results.paper for g in row.by_distortion]
    assert groups["auroc.value"].tolist() == pytest.approx(aurocs, nan_ok=True)
    assert len(pd.read_csv(tmp_path / "ranking.csv")) == 16
    with pytest.raises(ExistsError):
        write_files(run, folder)


def test_verdict_of_one_attack_speaks_of_no_others() -> None:
    found = verdict(_results(("sima",), (), 0.7))
    assert len(found) == 3
    assert not re.search("combined|strongest|optimistic|direction", " ".join(found))


def test_verdict_of_several_attacks() -> None:
    lead, meaning, others, dropping = verdict(_results(SEVEN, (), 0.7))
    assert "sima, the strongest of 7 attacks," in lead
    assert "picked after seeing them all, so its numbers are optimistic" in meaning
    assert "A combined score that learns how to weigh all attacks and timesteps reaches AUROC 0.810 (0.760" in others
    # The intervals of pia (0.6) and secmi (0.5, and 0.05 to either side) do not lie below chance.
    wrong = "pian (0.400), epsilon (0.300), loss (0.200), pfami (0.100)"
    assert f"interval, all dimensions kept: {wrong}. There the published direction is wrong" in others
    assert dropping.startswith("For sima, AUROC is 0.700 with all")


def test_verdict_of_attacks_that_all_point_the_right_way() -> None:
    assert "direction" not in " ".join(verdict(_results(("sima", "pia"), (), 0.7)))


def test_verdict_may_have_a_winner_other_than_the_first() -> None:
    results = _results(("sima", "pia"), (), 0.6)
    swapped = results.model_copy(update={"headline": (*results.headline[7:], *results.headline[:7])})
    assert "sima, the strongest of 2 attacks," in verdict(swapped)[0]


@pytest.mark.parametrize(("base", "meaning"), [(0.45, "includes chance"), (0.3, "below chance"), (0.6, "above chance")])
def test_verdict_knows_chance(base: float, meaning: str) -> None:
    results = _results(("sima",), ("members-000000/m0",), base)
    assert meaning in verdict(results)[1]
    assert beats_chance(results, "sima") == (meaning == "above chance")


def test_what_was_audited(page: str) -> None:
    text = _text(page)
    assert "6 members, 5 of 6 held-out; 1 rejected" in text
    assert "sima: 4 timesteps 0, 10, ..., 30" in text
    assert "hutchinson, 16 probes a sample; latent 4 x 2 x 2 = 16 dimensions" in text
    assert "members/ and heldout/ (SHA-256 feedc0ffeefe)" in text
    assert "Stability the two halves of 16 probes a sample correlate by 0.912 (Spearman)" in text
    assert "Ranking one for all" not in text
    assert "Warnings too few held-out & more" in text


def _facts(run: RunDirectory, results: Results, **config: Any) -> dict[str, str]:
    record = run.read_record()
    changed = record.model_copy(update={"config": record.config.model_copy(update=config)})
    return dict(facts(results, changed))


def test_facts_of_a_pooled_influence_and_a_ranking_by_the_calibration_set(run: RunDirectory) -> None:
    geometry = GeometryConfig(influence="pooled", probes=2, calibration=3000)
    found = _facts(run, read_results(run.reduction()), geometry=geometry, masks=MaskConfig(ranking="calibration"))
    assert found["Influence"].startswith("pooled, 2 probes a sample and the mean of about 3,000 calibration samples;")
    assert found["Ranking"] == "one for all samples, from mean influences of about 3,000 calibration samples"


@pytest.mark.parametrize(
    ("residual", "said"),
    [
        (math.nan, "the sum of the influences, an upper bound, of 9 samples"),
        (2.0, "a rank correlation of 0.940, and a residual of 2 nats of a spread of 6.5)"),
    ],
)
def test_facts_and_the_table_say_how_distortion_was_estimated(residual: float, said: str, tmp_path: Path) -> None:
    run = _make_run(tmp_path)
    found = {"correlation": 0.94, "residual": residual, "spread": 6.5} if residual == 2 else {}
    nothing = dict.fromkeys(("correlation", "residual", "spread"))
    _edit_results(run, distortion_estimate={"samples": 9, "slope": 0.9, "intercept": -3.0, **nothing, **found})
    assert _facts(run, read_results(run.reduction()))["Distortion"].endswith(said)
    assert _text(_report(run)).count(said) == 2


def test_facts_of_a_ranking_by_another_run(run: RunDirectory) -> None:
    exact = read_results(run.reduction()).model_copy(update={"stability": None})
    found = _facts(run, exact, geometry=GeometryConfig(influence="exact"), masks=MaskConfig(ranking="runs/<b>"))
    assert found["Influence"] == "exact; latent 4 x 2 x 2 = 16 dimensions"
    assert found["Ranking"] == "one for all samples, from runs/<b>"
    assert found["Stability"] == "exact influences, none is estimated"
    off = GeometryConfig(influence="off", precision="bfloat16")
    found = _facts(run, exact, geometry=off, masks=MaskConfig(ranking="runs/<b>"))
    assert found["Influence"].startswith("the one ranking stands for each sample's own, products in bfloat16; latent")
    assert found["Stability"] == "no sample has influences of its own"


def test_facts_name_conditioning_and_precision_that_are_not_the_usual_ones(run: RunDirectory) -> None:
    results = read_results(run.reduction())
    assert "Conditioning" not in _facts(run, results)
    assert "Precision" not in _facts(run, results)
    assert _facts(run, results, precision="bfloat16")["Precision"] == "the denoiser in bfloat16"
    assert _facts(run, results, conditioning="none")["Conditioning"].startswith("none for any sample")
    assert "Captions" not in _facts(run, results)
    assert _facts(run, results, captions="random")["Captions"] == "a random one of each sample's"
    assert _facts(run, results, captions="all")["Captions"].startswith("all of each sample's")
    assert _facts(run, results, conditioning=1000)["Conditioning"] == "class 1000 for every sample"


def test_facts_name_the_averaged_attacks(tmp_path: Path) -> None:
    run = _make_run(tmp_path, attacks=("sima", "pfami"))
    found = _facts(run, read_results(run.reduction()))["Attacks"]
    assert found == "sima: 4 timesteps 0, 10, ..., 30; pfami: 4 timesteps 0, 10, ..., 30 (the mean over them)"


def test_hostile_text_stays_text(page: str) -> None:
    text = _text(page)
    for hostile in (ATTACK, "<i>dog</i>", "/models/<u>x</u>", "no <b>image</b>", "heldout-000000/h<5>"):
        assert hostile not in page
        assert hostile in text


def test_a_caption_turns_no_text_around_it(page: str) -> None:
    assert page.count(TURN) == page.count(f"<bdi>{TURN}") > 0


def test_members_at_risk_have_picture_caption_and_score(page: str) -> None:
    text = _text(page)
    pictures = re.findall(r'<img src="data:image/png;base64,[^"]+" alt="member ([^"]+)"', page)
    assert pictures == ["members-000000/m0", "members-000000/m1", "members-000001/m5"]
    assert (
        "members-000000/m1 a quiet picture class: <i>dog</i> score 0.500 1 of 5 held-out above (below 45% at 95%)"
        in text
    )
    assert "picture not available: cannot be decoded" in text
    assert (
        "heldout-000000/h1 score 1.250 0 of 5 held-out above"
        in text[text.index("Held-out images that score highest") :]
    )


def test_pictures_are_encoded_anew(page: str) -> None:
    shown = [base64.b64decode(data) for data in re.findall(r"data:image/png;base64,([^\"]+)", page)]
    assert len(shown) == 3
    for data, seed in zip(shown, (0, 1, 5), strict=True):
        assert b"iCCP" in _png(seed)
        assert b"iCCP" not in data
        with Image.open(io.BytesIO(data)) as image, Image.open(io.BytesIO(_png(seed))) as stored:
            assert np.array_equal(np.asarray(image), np.asarray(stored))


def test_rejects_are_counted_and_named(page: str) -> None:
    text = _text(page)
    assert "Stage Reason Samples decode no <b>image</b> 1" in text
    assert "heldout-000000/h<5> at decode: no <b>image</b>: 0 bytes" in text


def test_unreachable_shards_cost_only_the_pictures(tmp_path: Path) -> None:
    run = _make_run(tmp_path)
    (tmp_path / "shards").rename(tmp_path / "elsewhere")
    text = _text(_report(run))
    assert text.count("picture not available") == 5
    assert "members-000001/m5" in text
    assert "How to read these numbers" in text


@pytest.mark.parametrize("shorten", [True, False])
def test_a_damaged_shard_costs_only_its_pictures(tmp_path: Path, shorten: bool) -> None:
    record = _make_run(tmp_path).read_record()
    shard = tmp_path / "shards/members/members-000001.tar"
    shard.write_bytes(shard.read_bytes()[:700]) if shorten else shard.unlink()
    pictures = read_pictures(["members-000000/m0", "members-000001/m3", "members-000001/m5"], record)
    shown = {sample_id for sample_id, picture in pictures.items() if picture.uri}
    assert shown == {"members-000000/m0"}
    assert "members-000001.tar" in pictures["members-000001/m5"].reason


def test_unknown_ids_have_a_reason(tmp_path: Path) -> None:
    pictures = read_pictures(["members-000000/m7", "members-7/m0"], _make_run(tmp_path).read_record())
    assert pictures["members-000000/m7"] == Picture(reason="no such key in its shard")
    assert pictures["members-7/m0"] == Picture(reason="no shard of that name")


def test_other_shards_at_the_same_place_are_not_shown(tmp_path: Path) -> None:
    record = _make_run(tmp_path).read_record()
    shards = Location.of(tmp_path / "shards")
    infos = write_shards([Sample("m0", _png(9), "png")], shards, "more")
    manifest = read_manifest(shards)
    changed = manifest.model_copy(update={"shards": (*manifest.shards, *infos)})
    (shards / "manifest.json").replace(changed.model_dump_json().encode())
    pictures = read_pictures(["members-000000/m0"], record)
    assert pictures == {"members-000000/m0": Picture(reason="the shards have changed since the audit")}


def test_same_directory_same_bytes(run: RunDirectory, page: str) -> None:
    location = _write_report(run)
    assert location == run.root / "report.html"
    assert location.read_text() == page


def test_distortion_is_shown_in_quarters_and_halves(page: str) -> None:
    text = _text(page)
    assert "nats members + held-out quarter 1 -8.0 to -7.5 3 + 0 quarter 2 -7.0 to -6.5 3 + 3" in text
    assert "half 1 -8.0 to -7.5 6 + 0 half 2 -7.0 to -6.5 6 + 6 plain t 10 one side is empty" in text
    cells = [_cell(_estimate(0.6 + i / 20)) for i in (2, 3, 4)]
    empty = "one side is empty"
    assert f"lowest dropped t 10, drop 40% {empty} {' '.join(cells)} {empty} {cells[0]}" in text


def test_what_is_missing_is_said(page: str, tmp_path: Path) -> None:
    run = _make_run(tmp_path)
    _edit_results(run, by_distortion=[], distortion_measured=0, expected=20, stability=None)
    without = _report(run)
    assert "Distortion was not measured in this run" in _text(without)
    assert "8 samples have neither a row nor a reject" in _text(without)
    assert "correlate by" not in _text(without)
    assert "neither a row nor a reject" not in _text(page)
    assert without.count('class="plot"') == page.count('class="plot"') - 1


def test_a_row_without_an_oracle_has_an_empty_cell(page: str, tmp_path: Path) -> None:
    run = _make_run(tmp_path)
    content = _content(run)
    _edit_results(run, headline=[row | {"oracle": None} for row in content["headline"]])
    empty = '<td class="number second apart"></td>'
    assert _report(run).count(empty) == len(ROWS)
    assert page.count(empty) == 1


@pytest.mark.parametrize("attacks", [("sima",), ("sima", "pia")])
def test_without_a_global_row_nothing_speaks_of_it(page: str, tmp_path: Path, attacks: tuple[str, ...]) -> None:
    run = _make_run(tmp_path, attacks=attacks)
    content = _content(run)
    assert "ranking for all samples" in _text(page)
    _edit_results(
        run,
        headline=[row for row in content["headline"] if row["row"] != "global"],
        roc=[point for point in content["roc"] if point["row"] != "global"],
        by_drop=[point for point in content["by_drop"] if point["mask"] != "global"],
    )
    without = _text(_report(run))
    assert "ranking for all samples" not in without
    assert "global lowest" not in without


def test_an_averaged_attack_alone_has_no_plot_by_timestep(page: str, tmp_path: Path) -> None:
    averaged = _report(_make_run(tmp_path, attacks=("pfami",)))
    text = _text(averaged)
    assert "AUROC by timestep." in _text(page)
    assert "AUROC by timestep." not in text
    assert averaged.count('class="plot"') == page.count('class="plot"') - 1
    assert "plain all dimensions kept all 90% agree 0.700" in text
    assert "0.714 all t, lowest 40%" in text


def test_an_averaged_attack_has_no_panel_by_timestep() -> None:
    both = plot_by_timestep(_results(("sima", "pfami"), (), 0.7))
    assert "sima, plain" in both.alt
    assert "pfami" not in both.alt


def test_quartiles_with_one_side_empty_still_draw() -> None:
    results = _results(("sima",), (), 0.7)
    groups = tuple(group.model_copy(update={"auroc": None}) for group in results.by_distortion)
    plot = plot_by_distortion(results.model_copy(update={"by_distortion": groups}))
    assert plot.uri.startswith("data:image/svg+xml;base64,")


def test_several_attacks_are_grouped(tmp_path: Path) -> None:
    attacks = ("sima", "pia$x$", "secmi", "loss")
    page = _report(_make_run(tmp_path, attacks=attacks))
    text = _text(page)
    assert "sima, the strongest of 4 attacks," in text
    # The rows, the paper's table and the table of distortion.
    assert re.findall(r'scope="rowgroup">([^<]+)<', page) == [*attacks] * 3
    for auroc in ("0.700", "0.600", "0.500", "0.400"):
        assert f"plain all dimensions kept 0 90% agree {auroc}" in text
    assert page.count('<figure class="wide">') == 7


def test_several_attacks_open_with_one_line_each(page: str, tmp_path: Path) -> None:
    text = _text(_report(_make_run(tmp_path, attacks=SEVEN)))
    table = "AUROC plain lowest 40% global lowest 40% random 40% highest 40% chosen geometry"
    for i, attack in enumerate(SEVEN):
        values = " ".join(_cell(_estimate(0.7 - i / 10 + 0.011 * row)) for row in range(len(ROWS)))
        table += f" {attack} {values}"
    assert table in text
    assert "All attacks and timesteps together" in text
    assert "AUROC plain lowest" not in _text(page)


def test_hostile_names_of_attacks_and_rankings_stay_text(tmp_path: Path) -> None:
    run = _make_run(tmp_path, attacks=(ATTACK, "sima"))
    record = run.read_record()
    config = record.config.model_copy(update={"masks": MaskConfig(ranking="/runs/<b>")})
    (run.root / "run.json").replace(record.model_copy(update={"config": config}).model_dump_json().encode())
    page = _report(run)
    text = _text(page)
    assert ATTACK not in page
    assert "/runs/<b>" not in page
    assert f"with {ATTACK}, the strongest of 2 attacks," in text
    assert f"alone ({ATTACK}, t 10)" in text
    assert "one for all samples, from /runs/<b>" in text


def test_plots_say_in_words_what_they_show(page: str) -> None:
    alts = [html.unescape(alt) for alt in re.findall(r'<img class="plot"[^>]+alt="([^"]+)"', page)]
    assert len(alts) == 7
    assert "plain 0.175, lowest dropped 0.178" in alts[0]
    assert "best 0.760 at t 10, 75% dropped" in alts[1]
    assert "sima: lowest bin 0.550, highest 0.630" in alts[2]


def _words(uri: str) -> set[str]:
    """The text in a figure: matplotlib draws it as paths, each after a comment that says what it spells."""
    svg = base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")).decode()
    return {comment.strip() for comment in re.findall(r"<!--(.*?)-->", svg, flags=re.S)}


def test_plot_by_bin_has_a_panel_for_each_attack() -> None:
    results = _results(("sima", "pfami"), (), 0.7)
    plot = plot_by_bin(results)
    assert plot == plot_by_bin(results)
    assert plot.alt.endswith("sima: lowest bin 0.550, highest 0.630. pfami: lowest bin 0.550, highest 0.630.")
    assert {"sima, t 10", "pfami, all t"} <= _words(plot.uri)
    # One curve needs no legend.
    assert "plain" not in _words(plot.uri)


@pytest.mark.parametrize("attacks", [("sima",), SEVEN[:2], SEVEN[:4], SEVEN])
def test_the_legend_names_every_curve_inside_the_figure(attacks: tuple[str, ...]) -> None:
    plot = plot_roc(_results(attacks, (), 0.7))
    assert {*attacks, "plain", "global lowest dropped", "geometry-adjusted", "chance"} <= _words(plot.uri)
    assert _overhang(plot.uri) <= 0


def _overhang(uri: str) -> float:
    """How far the text of a figure begins left of it, in points."""
    svg = base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")).decode()
    return -min(float(x) for x in re.findall(r'<g (?:style="[^"]*" )?transform="translate\(([-0-9.]+) ', svg))


def test_labels_of_timesteps() -> None:
    assert [step_label(step) for step in (0, 20, None)] == ["0", "20", "all"]
    assert [at_step(step) for step in (0, 20, None)] == ["t 0", "t 20", "all t"]


@pytest.mark.parametrize(
    ("mask", "drop", "label", "short"),
    [
        ("none", 0.0, "chosen: nothing", "all t"),
        ("lowest", 0.4, "chosen: lowest 40%", "all t, lowest 40%"),
        ("highest", 0.025, "chosen: highest 2.5%", "all t, highest 2.5%"),
    ],
)
def test_labels_of_what_is_chosen(mask: str, drop: float, label: str, short: str) -> None:
    held = HeldoutChoice(**_choice(0.7, None, mask, drop), agreement=1.0, difference=None, delong_difference=None)
    row = Headline(attack="sima", row="chosen", heldout_choice=held, oracle=None)
    assert row_label(row) == label
    assert choice_label(held) == short


def test_labels_of_p() -> None:
    labels = [p_label(p) for p in (1.0, 0.0312, 4.5e-6, 3e-68, 0.0)]
    assert labels == ["p = 1", "p = 0.031", "p = 4.5e-06", "p < 1e-12", "p < 1e-12"]


def test_terminal_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_results(_make_run(tmp_path, attacks=("sima", "pfami")))
    printed = " ".join(re.sub("[^ -~]", " ", capsys.readouterr().out).split())
    assert "sima plain 0 0.700 (0.650-0.750) too few 0.703 (t 10)" in printed
    assert "sima lowest 40% dropped 10 0.711 (0.661-0.761) +0.011 (-0.039 to +0.061)" in printed
    assert "pfami chosen: lowest 25% all 0.655" in printed
    assert "combined: AUROC 0.810 (0.760-0.860)" in printed
    assert (
        "pfami relative to the reference, t 20: AUROC 0.861 (0.811-0.911), minus plain +0.067 (+0.017 to +0.117); the "
        "reference alone 0.523 (0.473-0.573)" in printed
    )
    assert printed.startswith("If the target had never seen the members, ")


def test_missing_or_foreign_results_are_refused(tmp_path: Path) -> None:
    run = _make_run(tmp_path)
    _edit_results(run, surprise=1)
    with pytest.raises(UsageError, match="reduce"):
        _write_report(run)
    shutil.rmtree(tmp_path / "run/reductions")
    with pytest.raises(UsageError, match=r"no results.json; run `ldm-scale reduce RUN` first"):
        _write_report(run)
    assert not (tmp_path / "run/report.html").exists()


def test_report_needs_neither_ray_nor_torch(run: RunDirectory, page: str) -> None:
    program = (
        "import sys\n"
        "for name in ('ray', 'torch', 'diffusers', 'matplotlib.pyplot'): sys.modules[name] = None\n"
        "from ldm_scale.report.page import write_report\n"
        "from ldm_scale.files.ownership import own\n"
        "from ldm_scale.files.rundir import RunDirectory\n"
        "from ldm_scale.files.storage import Location\n"
        "run = RunDirectory(Location.of(sys.argv[1]))\n"
        "with own(run.root, print) as owner: write_report(run, owner)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(run.root)], check=True)
    assert (run.root / "report.html").read_text() == page


CLASS = Telltale(feature="class", kind="<b>1</b>", members=0.9, heldout=0.25, auroc=None, p_value=1e-9)
WIDTH = Telltale(feature="width", kind=None, members=512, heldout=64, auroc=0.934, p_value=1e-6)
LATENT = Telltale(feature="latent mean", kind=None, members=1, heldout=2, auroc=0.2, p_value=1e-6)


def test_what_tells_the_sides_apart_comes_before_all_else_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _make_run(tmp_path)
    _edit_results(run, blind=_control(0.87, 1e-7, CLASS, WIDTH).model_dump(mode="json"))
    text = _text(_report(run))
    said = (
        "differ in class (<b>1</b> in 90% of members, 25% of held-out images), width (AUROC 0.934; median 512 of "
        "members, 64 of others): without the denoiser they are told apart with AUROC 0.870 (0.820 to 0.920), p = 1e-07"
    )
    assert text.index(said) < text.index(CLAIMS)
    assert "the p-value proves nothing about training:" in text
    assert f"blind control without the denoiser, from 3 features {_cell(_estimate(0.87))} p = 1e-07; by class" in text
    print_results(run)
    assert said in " ".join(capsys.readouterr().out.split())


def test_a_blind_control_that_tells_nothing_stands_beside_the_combined_score(run: RunDirectory, page: str) -> None:
    text = _text(page)
    assert f"blind control without the denoiser, from 3 features {_cell(_estimate(0.51))} p = 0.4 " in text
    assert f"blind control by names alone, from 3 features {_cell(_estimate(0.52))} p = 0.3 " in text
    assert "told apart with" not in text


def test_what_is_said_of_the_sides_follows_from_what_tells_them_apart() -> None:
    even, above = _control(0.5, LEVEL), _control(0.9, LEVEL / 2)
    assert confounds(even, even) == confounds(None, None) == []
    (joint,) = confounds(above, even)
    assert "differ in several features together, none of them by itself: " in joint
    assert "unless the autoencoder" not in confounds(_control(0.9, 0.001, WIDTH, LATENT), None)[0]
    assert "unless the autoencoder was trained on one side alone" in confounds(_control(0.9, 0.001, LATENT), None)[0]
    (named,) = confounds(even, above)
    assert named.startswith("Their names differ, which no model sees")
    assert "proves nothing" not in named
    assert warned(_results(("sima",), (), 0.7)) == []
    assert warned(_results(("sima",), (), 0.7).model_copy(update={"blind": None})) == [MISSING]
