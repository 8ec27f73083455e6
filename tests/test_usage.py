"""Wrong usage: status 2, and one line that names the key and what to give instead."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from ldm_scale.cli import main
from ldm_scale.config.base import DEMO
from ldm_scale.flags import ENVIRONMENT


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT.values():
        monkeypatch.delenv(name, raising=False)
    # Nothing is asked of the hub.
    monkeypatch.setattr("ldm_scale.targets.fetch.is_offline_mode", lambda: True)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--attacks.sima.p 0", "attacks.sima.p: "),
        ("--attacks.sima.p -1", "attacks.sima.p: "),
        ("--attacks.sima.p nan", "attacks.sima.p: "),
        ("--attacks.sima.timesteps 0-300", "attacks.sima.timesteps: '0-300' is no list .* 0:300:10"),
        ("--attacks.sima.timesteps 0:300:0", "attacks.sima.timesteps: '0:300:0' is no list"),
        ("--attacks.sima.timesteps 0:1200:100", "attacks.sima.timesteps: 1000 .* 0 to 999$"),
        ("--attacks.sima.timesteps -5", "attacks.sima.timesteps: -5 .* 0 to 999$"),
        ("--attacks simma", "'simma'; did you mean 'sima'"),
        ("--attacks simma --attacks.sima.p 3", "'simma'; did you mean 'sima'"),
        ("--analysis.average simma", "'simma'; did you mean 'sima'"),
        ("--compute.device tpu", "compute.device: .*'cuda'"),
        ("--conditioning some", "conditioning: .*'sample'"),
        ("--sed 3", "--sed; did you mean --seed"),
        ("--attacks.sima.pp=3", "--attacks.sima.pp; did you mean --attacks.sima.p"),
        # Short for two options, or for one alone.
        ("--compute.g 3", "--compute.g; did you mean --compute.gpus"),
        ("--see 3", "--see; did you mean --seed"),
        ("--seed 3 4", "unexpected argument '4'"),
        ("--config {tmp}/brace.yaml", "brace.yaml: line 3, column 1: "),
        ("--config {tmp}/tab.yaml", "tab.yaml: line 2, column 1: "),
        ("--config {tmp}/key.yaml", "geometry.probs: .* did you mean geometry.probes"),
        ("--shards {tmp}/images --target x/y", "ldm-scale pack folder '{tmp}/images' OUT"),
        ("--shards {demo}/shards --target no-one/no-such", "no-one/no-such .* HF_HUB_OFFLINE"),
        ("--shards {demo}/shards --target none", "none does not exist; give .* a hub id"),
    ],
)
def test_wrong_usage_is_one_line_that_names_the_key(
    flags: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "brace.yaml").write_text("seed: 1\nattacks: {sima: {p: 2}\nseed: 3\n")
    (tmp_path / "tab.yaml").write_text("seed: 1\n\tlatent: mode\n")
    (tmp_path / "key.yaml").write_text("geometry:\n  probs: 3\n")
    (tmp_path / "images/cats").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "images/cats/a.png")
    places = {"tmp": tmp_path, "demo": DEMO}
    try:
        status = main(["audit", "--out", str(tmp_path / "out"), *flags.format(**places).split()])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ldm-scale")
    assert re.search(named.format(**places), line), line
    assert not (tmp_path / "out").exists()


def test_a_misspelt_command_names_the_one_that_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["audt"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "ldm-scale: error: unknown command 'audt'; did you mean 'audit'?\n"


@pytest.mark.parametrize(
    ("memory", "advice"), [("10GB", r"--compute\.batch-size \d+ fits$"), ("1GB", r"no batch fits; --geometry\.memory")]
)
def test_a_batch_that_no_gpu_holds_is_refused_by_a_dry_run(
    memory: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dry-run", "--compute.batch-size", "1000000", "--hardware.memory", memory]
    assert main(["audit", "--out", "o", *flags]) == 2
    assert re.search(
        r"compute\.batch_size = 1,000,000 takes .*--hardware\.memory\); " + advice, capsys.readouterr().err
    )


def test_json_is_all_that_standard_output_gets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--out", "o", "--dry-run", "--json", "--limit", "7"]) == 0
    said = capsys.readouterr()
    lines = json.loads(said.out)["lines"]
    assert said.err.splitlines() == lines
    assert any("14: 7 members, 7 held-out" in line for line in lines)


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("attacks", {"sima", "pfami_published"}),
        ("estimators", {"hutchinson", "slq"}),
        ("families", {"unconditional", "flux"}),
        ("sources", {"folder", "coco"}),
        ("presets", {"cifar10-small", "pokemon"}),
    ],
)
def test_what_there_is_is_listed(what: str, names: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert names <= {name for name, *_ in rows}
    assert all(text for _, text in rows)
