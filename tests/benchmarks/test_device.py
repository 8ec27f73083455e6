"""The benchmark of a device: on the CPU with the demo, and the shapes of Stable Diffusion without numbers."""

import json
from pathlib import Path

import pytest
import torch

from ldm_scale.benchmarks.device import main, precisions, stable_diffusion
from ldm_scale.cli import main as command


def test_it_times_every_part_and_writes_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = tmp_path / "new" / "device.json"
    flags = ("--device", "cpu", "--targets", "demo", "--batches", "1,2", "--repeats", "1", "--json", str(numbers))
    assert main(flags) == 0
    document = json.loads(numbers.read_text())
    lines = {line["what"]: line for line in document["lines"]}
    expected = {f"demo: evaluation, {n} at once, {how}" for n in (1, 2) for how in ("float32", "bfloat16")}
    for part in ("encoding", "decoding", "product J v", "product J^T v"):
        expected |= {f"demo: {part}, {n} at once, float32" for n in (1, 2)}
    assert {what for what in lines if what.startswith("demo")} == expected
    assert len(lines) == len(expected) + 2
    for what in expected:
        assert lines[what]["value"] > 0
        assert lines[what]["ratio"] == pytest.approx(lines[what]["value"] / lines[what]["bound"])
    # The linear work of a product is the decoder's own, forwards or backwards.
    decoding, pull = (lines[f"demo: {part}, 1 at once, float32"]["bound"] for part in ("decoding", "product J^T v"))
    assert pull == pytest.approx(decoding, rel=0.3)
    assert "product J^T v" in capsys.readouterr().out


def test_the_shapes_are_those_of_stable_diffusion() -> None:
    """859,520,964 parameters of the U-Net, 83,653,863 of the autoencoder and 123,060,480 of CLIP, as published."""
    target = stable_diffusion("meta")
    assert sum(weight.numel() for weight in target.weights()) == 859_520_964 + 83_653_863 + 123_060_480
    assert (target.image_size, target.latent_shape) == (512, (4, 64, 64))
    assert target.condition([None] * 3, [None] * 3).shape == (3, 77, 768)


def test_a_device_takes_what_it_can() -> None:
    assert precisions("cpu") == ["float32", "bfloat16"]
    assert precisions("cuda") == ["float32", "tf32", "bfloat16", "float16"]


@pytest.mark.parametrize("flags", [("--targets", "dmeo"), ("--batches", "0"), ("--device", "tpu")])
def test_a_wrong_option_is_the_users(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", *flags]) == 2
    assert flags[0].strip("-").rstrip("s") in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cuda"]) == 2
    assert "device cuda" in capsys.readouterr().err
    for part in ("audit", "influence", "sd", "train"):
        assert command(["benchmark", part, "--device", "cuda"]) == 2
        assert capsys.readouterr().err == "ldm-scale: error: device cuda: torch sees no GPU here; take --device cpu\n"
