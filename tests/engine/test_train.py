"""`ldm-scale train` on a real Ray: members in, a target out."""

import json
from pathlib import Path

import pytest

from ldm_scale.cli import main
from ldm_scale.data.shards import read_manifest
from ldm_scale.engine.train import _epochs, _member_shards
from ldm_scale.storage import Location
from ldm_scale.targets import load_target
from tests.conftest import tiny_recipe

TINY = ["--size", "16", "--vae-channels", "8,8,16", "--unet-channels", "8,16", "--vae-batch", "8", "--unet-batch", "8"]


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_few_steps_make_a_target(
    tmp_path: Path, tiny_shards: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "target"
    steps = ["--vae-steps", "20", "--unet-steps", "10", "--device", "cpu", "--workers", str(workers)]
    assert main(["train", "--shards", str(tiny_shards), "--out", str(out), *TINY, *steps]) == 0
    assert load_target(str(out), "cpu").latent_shape == (4, 4, 4)
    record = json.loads((out / "training.json").read_text())
    assert record["split_sha256"] == read_manifest(Location.of(tiny_shards)).split_sha256
    assert record["recipe"]["vae_steps"] == 20
    printed = capsys.readouterr().out
    first = float(printed.split("autoencoder: step 1 of 20, loss ")[1].split()[0])
    assert record["final_losses"]["autoencoder"] < first
    assert "denoiser: step 10 of 10" in printed
    assert not list(tmp_path.glob("*.partial"))


def test_only_members_are_trained_on_and_often_enough(tiny_shards: Path) -> None:
    folder = Location.of(tiny_shards)
    shards = _member_shards(read_manifest(folder), folder)
    assert {task.shard.name.split("/")[0] for task in shards} == {"members"}
    config = tiny_recipe(vae_steps=7, vae_batch=8, unet_steps=5, unet_batch=16, workers=2)
    stream = _epochs(config, shards)
    assert sum(task.shard.samples for task in stream) >= 7 * 8 + 24 + 5 * 16
    assert stream == _epochs(config, shards)
    assert {task.shard.name for task in stream[: len(shards)]} == {task.shard.name for task in shards}


def test_an_out_folder_in_use_is_refused(tmp_path: Path, tiny_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kept.txt").write_text("kept")
    assert main(["train", "--shards", str(tiny_shards), "--out", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
