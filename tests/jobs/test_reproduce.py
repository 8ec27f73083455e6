"""jobs/reproduce.py on a few pictures: the numbers of its tables are those of its results.json, by hand."""

import itertools
import json
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldm_scale.analysis.replication import ReplicatedPaperRow, Replication
from ldm_scale.cli import main, run_reproduction
from ldm_scale.config.audit import CALIBRATED, AnalysisConfig, GeometryConfig, MaskConfig
from ldm_scale.config.base import build
from ldm_scale.config.reproduce import TIMESTEPS, ReproduceConfig
from ldm_scale.config.train import TrainConfig
from ldm_scale.errors import UsageError
from tests.conftest import make_folder

# Student's t of one degree of freedom, 97.5%.
T1 = 12.706204736
METRICS = ("auroc", "asr", "paper_tpr_at_1pct_fpr")


def reproduce(folder: Path, *flags: str) -> int:
    tiny = ("--members", "8", "--steps", "2", "--widths", "8,16", "--seeds", "0,1", "--attacked", "sample")
    return run_reproduction("", ["--data", str(folder / "data"), "--out", str(folder / "out"), *tiny, *flags])


def shrink(config: TrainConfig, autoencoder: dict[str, Any]) -> TrainConfig:
    return config.model_copy(update={"size": 16, "autoencoder": config.autoencoder.model_copy(update=autoencoder)})


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    """Little of everything that is not what is tested."""
    train, audit = ReproduceConfig.train, ReproduceConfig.audit
    small = {"channels": (8, 8, 16), "epochs": 4}
    few = {
        "analysis": AnalysisConfig(bootstrap=20, repeats=2),
        "geometry": GeometryConfig(probes=2, distortion="exact"),
        "masks": MaskConfig(ranking=CALIBRATED, bins=5),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReproduceConfig, "train", lambda *asked: shrink(train(*asked), small))
        patch.setattr(ReproduceConfig, "audit", lambda *asked: audit(*asked).model_copy(update=few))
        patch.setitem(TIMESTEPS, "cpu", {"sima": "0,30", "pia": "0,30", "secmi": "0,20"})
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and out: two seeds."""
    from tests.inline import inline_ray

    folder = tmp_path_factory.mktemp("reproduce")
    pictures = sorted(path for path in make_folder(folder / "pictures", 24).rglob("*.png"))
    (folder / "data").mkdir()
    columns = {
        "image": [{"bytes": path.read_bytes(), "path": None} for path in pictures],
        "label": [n % 2 for n in range(len(pictures))],
        "text": ["a photo"] * len(pictures),
    }
    pq.write_table(pa.table(columns), folder / "data/train.parquet")
    with inline_ray():
        assert reproduce(folder) == 0
    return folder


def results(done: Path) -> list[dict[str, Any]]:
    return [json.loads((done / f"out/seed-{seed}/attacked-sample/results.json").read_text()) for seed in (0, 1)]


def replication(done: Path) -> Replication:
    return Replication.model_validate_json((done / "out/reproduction.json").read_bytes())


def choice(found: dict[str, Any], attack: str, row: str) -> dict[str, Any]:
    return next(line for line in found["headline"] if (line["attack"], line["row"]) == (attack, row))["heldout_choice"]


def of(line: dict[str, Any] | ReplicatedPaperRow) -> tuple[str, str]:
    values = line if isinstance(line, dict) else line.model_dump()
    return values["attack"], values["row"]


def test_every_row_is_the_mean_of_the_seeds_results(done: Path) -> None:
    rows = replication(done).rows
    masks = ("plain", "lowest", "global", "random", "highest")
    asked = [(attack, "sample", row) for attack in ("sima", "pia", "secmi") for row in masks]
    assert [(row.attack, row.latent, row.row) for row in rows] == asked
    for row in rows:
        both = [choice(found, row.attack, row.row) for found in results(done)]
        for name in METRICS:
            pooled, given = getattr(row.metrics, name), [one["metrics"][name] for one in both]
            a, b = (one["value"] for one in given)
            assert pooled.seeds == (a, b)
            assert pooled.within == tuple((one["low"], one["high"]) for one in given)
            half = T1 * abs(a - b) / 2
            assert (pooled.mean, pooled.low, pooled.high) == pytest.approx(
                ((a + b) / 2, pooled.mean - half, pooled.mean + half)
            )


def test_the_papers_rules_are_those_of_each_seeds_paper_table(done: Path) -> None:
    rows = replication(done).by_papers_rules
    masks = ("plain", "lowest", "random", "highest")
    asked = [(attack, row) for attack in ("sima", "pia", "secmi") for row in masks]
    assert sorted((row.attack, row.row) for row in rows) == sorted(asked)
    names = zip(METRICS, ("auroc", "asr", "tpr_at_1pct_fpr"), strict=True)
    for (ours, theirs), row in itertools.product(names, rows):
        given = [line[theirs]["value"] for one in results(done) for line in one["paper"] if of(line) == of(row)]
        assert getattr(row.metrics, ours).seeds == tuple(given)
        assert getattr(row.metrics, ours).mean == pytest.approx(statistics.mean(given))


def test_changes_are_paired_on_each_seed(done: Path) -> None:
    for row in replication(done).rows:
        found = results(done)
        both = [choice(one, row.attack, row.row) for one in found]
        assert (row.minus_plain is None) == (row.row == "plain")
        assert (row.minus_random is not None) == (row.row in ("lowest", "global"))
        for name in METRICS:
            if row.minus_plain is not None:
                given = [one["difference"][name] for one in both]
                pooled = getattr(row.minus_plain, name)
                assert pooled.seeds == tuple(one["value"] for one in given)
                assert pooled.within == tuple((one["low"], one["high"]) for one in given)
            if row.minus_random is not None:
                controls = [choice(one, row.attack, "random")["metrics"][name]["value"] for one in found]
                gains = [one["metrics"][name]["value"] - control for one, control in zip(both, controls, strict=True)]
                assert getattr(row.minus_random, name).mean == pytest.approx(statistics.mean(gains))


def test_quartiles_are_those_with_members_and_heldout_on_every_seed(done: Path) -> None:
    pooled = {(q.attack, q.row, q.group): q.auroc for q in replication(done).quartiles}
    groups = [[group for group in one["by_distortion"] if group["groups"] == 4] for one in results(done)]
    expected = {
        (a["attack"], a["row"], a["group"]): (a["auroc"]["value"], b["auroc"]["value"])
        for a, b in zip(*groups, strict=True)
        if a["auroc"] and b["auroc"]
    }
    assert expected
    assert {key: found.seeds for key, found in pooled.items()} == expected


@pytest.mark.usefixtures("inline")
def test_what_is_finished_is_not_done_again(
    done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (done / "out/reproduction.json").read_bytes()
    for stage in ("run_training", "run_audit"):
        monkeypatch.delattr(f"ldm_scale.benchmarks.reproduce.{stage}")
    assert reproduce(done) == 0
    assert (done / "out/reproduction.json").read_bytes() == before
    # The paper's row, and ours beside it.
    printed = capsys.readouterr().out
    found = replication(done)
    lines = [line for line in printed.splitlines() if " all " in line]
    assert "0.891" in lines[0]
    assert f"{found.by_papers_rules[0].metrics.auroc.mean:.3f}" in lines[1]
    rules = ["by the paper's rules: each metric at its best t", "by ours: t chosen on one half"]
    assert [any(line.startswith(rule) for line in printed.splitlines()) for rule in rules] == [True, True]
    # By the paper's rules the three attacks, then by ours.
    assert f"{found.rows[0].metrics.auroc.mean:.3f}" in lines[4]


@pytest.mark.usefixtures("inline")
def test_another_training_is_refused(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(done, "--kl-weight", "1e-3") == 2
    assert "autoencoder.kl_weight was 0.01, is now 0.001" in capsys.readouterr().err


@pytest.mark.usefixtures("inline")
def test_results_of_another_share_are_not_counted_with_those_of_40_percent(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`ldm-scale reduce` makes others of the same rows; the latest are what readers see."""
    folder = Path(shutil.copytree(done, tmp_path / "copy"))
    run = str(folder / "out/seed-1/attacked-sample")
    assert main(["reduce", run, "--drop", "0.6"]) == 0
    assert reproduce(folder) == 2
    assert f"run `ldm-scale reduce {run} --drop 0.4`" in capsys.readouterr().err


def test_a_size_gives_defaults_that_options_win_over() -> None:
    config = build(ReproduceConfig, {"size": "gpu", "data": "d", "members": 100})
    assert (config.members, config.steps, config.train(0).denoiser.batch) == (100, 6000, 256)
    assert config.train(0).denoiser.steps(100) == 6000
    assert config.audit(0, "mode").compute.device == "cuda"
    assert build(ReproduceConfig, {"data": "d", "cpus": 3}).train(0).cpus == 3


@pytest.mark.parametrize("given", [{"seeds": "1,1"}, {"attacked": ""}, {"attacked": "mean"}])
def test_what_cannot_be_asked(given: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(given))}"):
        build(ReproduceConfig, {"data": "d", **given})
