"""The report: complete, self-contained, escaped, and the same bytes each time."""

import base64
import html
import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ldm_scale.analysis.ranking import RankingSums, ranking_table
from ldm_scale.analysis.results import (
    Choice,
    DistortionGroup,
    Estimate,
    Headline,
    MetricSet,
    Point,
    Results,
    RiskyMember,
    RocPoint,
)
from ldm_scale.config import AuditConfig, digest
from ldm_scale.data.shards import Manifest, Sample, read_manifest, write_manifest, write_shards
from ldm_scale.errors import UsageError
from ldm_scale.report.page import write_report
from ldm_scale.report.pictures import Picture, read_pictures
from ldm_scale.report.plots import plot_by_distortion
from ldm_scale.report.verdict import beats_chance, verdict
from ldm_scale.rundir import RunDirectory, RunRecord
from ldm_scale.schema import REJECT
from ldm_scale.storage import Location, write_table

ATTACK = "<script>alert(1)</script>"
SHAPE = (4, 2, 2)
STEPS = (0, 10, 20, 30)
ROWS = {"plain": 0.0, "lowest": 0.4, "random": 0.4, "highest": 0.4, "chosen": 0.25}
PROFILE = b"bytes of a stored colour profile"
REJECTED = {"sample_id": "heldout-000000/h<5>", "stage": "decode", "reason": "no <b>image</b>: 0 bytes"}


def _png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", icc_profile=PROFILE)
    return buffer.getvalue()


def _estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.05, high=value + 0.05)


def _choice(value: float, timestep: int, drop: float) -> Choice:
    values = (value, value - 0.1, value / 4, value / 16)
    names = ("auroc", "asr", "tpr_at_1pct_fpr", "tpr_at_01pct_fpr")
    metrics = MetricSet(**{name: _estimate(v) for name, v in zip(names, values, strict=True)})
    return Choice(timestep=timestep, drop=drop, metrics=metrics)


def _headline(attack: str, base: float) -> list[Headline]:
    return [
        Headline(
            attack=attack,
            row=row,
            calibrated=_choice(base + 0.011 * i, STEPS[i % 4], drop),
            oracle=_choice(base + 0.011 * i + 0.003, STEPS[(i + 1) % 4], drop),
        )
        for i, (row, drop) in enumerate(ROWS.items())
    ]


def _by_drop(attack: str) -> list[Point]:
    return [
        Point(attack=attack, mask=mask if share else "none", drop=share / 4, timestep=10, auroc=0.7 + share / 50)
        for mask in ("lowest", "random", "highest")
        for share in range(4)
    ]


def _by_timestep(attack: str) -> list[Point]:
    masks = (("none", 0.0), ("lowest", 0.4))
    return [
        Point(attack=attack, mask=mask, drop=drop, timestep=t, auroc=0.6 + t / 1000)
        for mask, drop in masks
        for t in STEPS
    ]


def _by_distortion(attack: str) -> list[DistortionGroup]:
    return [
        DistortionGroup(
            attack=attack,
            row=row,
            quartile=quartile,
            low=quartile - 9.0,
            high=quartile - 8.5,
            members=3,
            heldout=3 if quartile > 1 else 0,
            timestep=10,
            drop=0.0,
            auroc=_estimate(0.6 + quartile / 20) if quartile > 1 else None,
        )
        for row in ("plain", "lowest")
        for quartile in (1, 2, 3, 4)
    ]


def _results(attacks: Sequence[str], at_risk: Sequence[str], base: float) -> Results:
    rates = np.linspace(0, 1, 5)
    return Results(
        fingerprint="0123456789abcdef",
        inputs={"shards": "5" * 64, "split": "feedc0ffee" * 6, "target": "7" * 64},
        members=6,
        heldout=5,
        expected=12,
        rejected={"decode: no <b>image</b>": 1},
        distortion_measured=11,
        bootstrap=100,
        confidence=0.9,
        headline=tuple(row for i, name in enumerate(attacks) for row in _headline(name, base - 0.1 * i)),
        by_timestep=tuple(point for name in attacks for point in _by_timestep(name)),
        by_drop=tuple(point for name in attacks for point in _by_drop(name)),
        by_distortion=tuple(group for name in attacks for group in _by_distortion(name)),
        roc=tuple(
            RocPoint(attack=name, row=row, fpr=rate, tpr=rate**0.5)
            for name in attacks
            for row in ROWS
            for rate in rates
        ),
        at_risk=tuple(
            RiskyMember(sample_id=name, attack=attacks[0], score=1.5 - i, heldout_above=i / 5)
            for i, name in enumerate(at_risk)
        ),
        warnings=("too few held-out & more",),
        versions={"ldm_scale": "0.1.0"},
    )


def _shards(folder: Location) -> str:
    """Two shards of three members, one of them hostile and one broken; returns what the run record knows of them."""
    captions = (ATTACK, "a quiet picture", None)
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
            members=6,
            heldout=6,
            versions={},
        )
    )
    run.commit(REJECT.empty_table(), pa.Table.from_pylist([REJECTED], schema=REJECT))
    ids = [f"members-{i // 3:06d}/m{i}" for i in (0, 1, 4, 5)]
    results = _results(attacks, ids, base)
    (run.root / "results.json").replace(results.model_dump_json().encode())
    influence = np.random.default_rng(0).normal(size=(11, 16)).astype(np.float16)
    write_table(run.root / "ranking.parquet", ranking_table(RankingSums.of(influence, 0.4), SHAPE))
    return run


def _edit_results(run: RunDirectory, **changes: object) -> None:
    location = run.root / "results.json"
    location.replace(json.dumps(json.loads(location.read_bytes()) | changes).encode())


def _report(run: RunDirectory) -> str:
    return write_report(run).read_text()


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


def test_every_headline_row_shows_its_numbers(run: RunDirectory, page: str) -> None:
    text = _text(page)
    results = Results.model_validate_json((run.root / "results.json").read_bytes())
    labels = ("plain", "lowest 40% dropped", "random 40% dropped", "highest 40% dropped", "chosen: lowest 25%")
    for label, row in zip(labels, results.headline, strict=True):
        metrics = row.calibrated.metrics
        estimates = (metrics.auroc, metrics.asr, metrics.tpr_at_1pct_fpr, metrics.tpr_at_01pct_fpr)
        cells = [f"{e.value:.3f} {e.low:.3f} to {e.high:.3f}" for e in estimates]
        oracle = f"{row.oracle.metrics.auroc.value:.3f} t {row.oracle.timestep}, drop {row.oracle.drop:.3f}"
        choice = f"{row.calibrated.drop:.3f} {row.calibrated.timestep}"
        assert re.search(rf"{re.escape(label)} [\w' ,]+ {choice} {' '.join(cells)} {oracle}", text), label


def test_verdict_follows_the_chosen_row(page: str) -> None:
    text = _text(page)
    assert "ranks the member first in 74% of cases (AUROC 0.744, 90% interval 0.694 to 0.794); chance is 50%" in text
    assert "lies above chance" in text
    assert (
        "raises AUROC from 0.700 to 0.711; dropping 40% at random gives 0.722, dropping the highest 40% 0.733" in text
    )


@pytest.mark.parametrize(("base", "meaning"), [(0.48, "includes chance"), (0.3, "below chance"), (0.6, "above chance")])
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
    assert "Warnings too few held-out & more" in text


def test_hostile_text_stays_text(page: str) -> None:
    text = _text(page)
    for hostile in (ATTACK, "<i>dog</i>", "/models/<u>x</u>", "no <b>image</b>", "heldout-000000/h<5>"):
        assert hostile not in page
        assert hostile in text


def test_members_at_risk_have_picture_caption_and_score(page: str) -> None:
    text = _text(page)
    pictures = re.findall(r'<img src="data:image/png;base64,[^"]+" alt="member ([^"]+)"', page)
    assert pictures == ["members-000000/m0", "members-000000/m1", "members-000001/m5"]
    assert "members-000000/m1 a quiet picture class: <i>dog</i> score 0.500 0.200 of held-out above" in text
    assert "picture not available: cannot be decoded" in text


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
    assert text.count("picture not available") == 4
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
    location = write_report(run)
    assert location == run.root / "report.html"
    assert location.read_text() == page


def test_what_is_missing_is_said(page: str, tmp_path: Path) -> None:
    measured = _text(page)
    assert "1 (least) -8.0 to -7.5 nats 3 members, 0 held-out 2 -7.0 to -6.5 nats 3 members, 3 held-out" in measured
    assert "lowest dropped t 10, drop 0.000 one side is empty 0.700 0.650 to 0.750 0.750" in measured
    run = _make_run(tmp_path)
    _edit_results(run, by_distortion=[], distortion_measured=0, expected=20)
    without = _report(run)
    assert "Distortion was not measured in this run" in _text(without)
    assert "8 samples have neither a row nor a reject" in _text(without)
    assert "neither a row nor a reject" not in measured
    assert without.count('class="plot"') == page.count('class="plot"') - 1


def test_quartiles_with_one_side_empty_still_draw() -> None:
    results = _results(("sima",), (), 0.7)
    groups = tuple(group.model_copy(update={"auroc": None}) for group in results.by_distortion)
    plot = plot_by_distortion(results.model_copy(update={"by_distortion": groups}))
    assert plot.uri.startswith("data:image/svg+xml;base64,")


def test_several_attacks_are_grouped(tmp_path: Path) -> None:
    page = _report(_make_run(tmp_path, attacks=("sima", "pia$x$", "secmi", "loss")))
    text = _text(page)
    assert "sima, the strongest of 4 attacks," in text
    assert re.findall(r'scope="rowgroup">([^<]+)<', page) == ["sima", "pia$x$", "secmi", "loss"]
    for auroc in ("0.700", "0.600", "0.500", "0.400"):
        assert f"plain all dimensions kept 0.000 0 {auroc}" in text
    assert page.count('<figure class="wide">') == 6


def test_plots_say_in_words_what_they_show(page: str) -> None:
    alts = [html.unescape(alt) for alt in re.findall(r'<img class="plot"[^>]+alt="([^"]+)"', page)]
    assert len(alts) == 6
    assert "plain 0.175, lowest dropped 0.178" in alts[0]
    assert "best 0.760 at t 10, 75% dropped" in alts[1]


def test_missing_or_foreign_results_are_refused(tmp_path: Path) -> None:
    run = _make_run(tmp_path)
    _edit_results(run, surprise=1)
    with pytest.raises(UsageError, match="reduce"):
        write_report(run)
    (tmp_path / "run/results.json").unlink()
    with pytest.raises(UsageError, match=r"no results.json; run `ldm-scale reduce RUN` first"):
        write_report(run)
    assert not (tmp_path / "run/report.html").exists()


def test_report_needs_neither_ray_nor_torch(run: RunDirectory, page: str) -> None:
    program = (
        "import sys\n"
        "for name in ('ray', 'torch', 'diffusers', 'matplotlib.pyplot'): sys.modules[name] = None\n"
        "from ldm_scale.report.page import write_report\n"
        "from ldm_scale.rundir import RunDirectory\n"
        "from ldm_scale.storage import Location\n"
        "write_report(RunDirectory(Location.of(sys.argv[1])))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(run.root)], check=True)
    assert (run.root / "report.html").read_text() == page
