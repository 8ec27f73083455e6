"""`train --dry-run`: operations counted by hand over the modules, lengths by hand, and that nothing is started."""

import re
from pathlib import Path

import pytest
from torch import Tensor, nn

from ldm_scale.cli import main
from ldm_scale.config.audit import HardwareConfig
from ldm_scale.costs.training import estimate_training
from ldm_scale.training.losses import AutoencoderLoss, DenoiserLoss
from tests.conftest import tiny_recipe
from tests.targets import tiny
from tests.training.cases import as_latents, batch, models


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray may start."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", refuse)


def there_and_back(network: nn.Module, loss: nn.Module, inputs: object) -> int:
    """Operations of convolutions and linear layers: backward once for the weights, and once for what they are given."""
    found = 0

    def add(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        nonlocal found
        weights = module.weight[0].numel()
        each = 2 * made.numel() * weights
        found += each * (3 if given[0].requires_grad else 2)

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(add)
    loss(inputs)
    return found


def flops(text: str) -> float:
    """The number before FLOP."""
    number, prefix = re.search(r"([\d.]+) (.?)FLOP", text).groups()
    return float(number) * 1000 ** " kMGTPE".index(prefix or " ")


def said(config: object, **hardware: object) -> dict[str, str]:
    lines = [line.strip().split(maxsplit=1) for line in estimate_training(config, HardwareConfig(**hardware))]
    return {first: "".join(rest) for first, *rest in lines}


def test_a_sample_takes_what_its_modules_take_there_and_back(tiny_shards: Path) -> None:
    made, one = models(), batch(1)
    by_hand = {
        "autoencoder": there_and_back(made.autoencoder, AutoencoderLoss(made.autoencoder, 1.0), one),
        "denoiser": there_and_back(
            made.denoiser, DenoiserLoss(made.denoiser, made.schedule, made.condition), as_latents(made, one)
        ),
    }
    lines = said(tiny_recipe(shards=str(tiny_shards), denoiser={"epochs": 5, "batch": 8}))
    for stage, expected in by_hand.items():
        assert flops(lines[stage].split("; ")[2]) == pytest.approx(expected, rel=0.005)
    members = int(lines["members"].split(",")[0])
    steps = round(5 * members / 8)
    assert f"{steps:,} steps of 8" in lines["denoiser"]
    assert flops(lines["denoiser"].split(", ")[-1]) == pytest.approx(by_hand["denoiser"] * steps * 8, rel=0.01)


def test_hours_are_operations_by_speed_and_gpus(tiny_shards: Path) -> None:
    recipe = tiny_recipe(shards=str(tiny_shards), denoiser={"epochs": 5000}, flip=True)
    lines = said(recipe, flops=1e9, gpus=4)
    parts = sum(flops(lines[name].split(", ")[-1]) for name in ("autoencoder", "denoiser", "encoding"))
    assert float(lines["time"].split()[0]) == pytest.approx(parts / 1e9 / 3600, rel=0.02)
    assert " on 4 GPUs at 1 GFLOP/s" in lines["time"]
    # Each image as it is and mirrored.
    assert int(lines["encoding"].split()[0]) == 2 * int(lines["members"].split(",")[0])


def test_memory_holds_weights_moments_averages_and_a_part_of_a_batch(tiny_shards: Path) -> None:
    def memory(**denoiser: object) -> float:
        lines = said(tiny_recipe(shards=str(tiny_shards), denoiser={"batch": 64, **denoiser}))
        number, prefix = re.search(r"([\d.]+) (.)B in denoiser", lines["memory"]).groups()
        return float(number) * 1000 ** " kMGTPE".index(prefix)

    made = models()
    trained = sum(weight.numel() for weight in made.denoiser.parameters())
    resident = trained + sum(weight.numel() for weight in made.autoencoder.parameters())
    plain, averaged, parts = memory(), memory(ema=0.9), memory(accumulate=8)
    assert averaged - plain == pytest.approx(4 * trained, rel=0.1)
    # Weights, gradients and two moments are the least of it.
    assert parts > 4 * resident + 12 * trained
    assert plain - parts > 6 / 8 * (plain - 4 * resident - 12 * trained)


@pytest.mark.parametrize("preset", ["demo", "cifar10"])
def test_the_papers_presets_need_no_shards(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--preset", preset, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    wanted = {"demo": ["600", "1,200 steps of 32", "1,500 steps of 64"]}
    wanted["cifar10"] = ["25,000", "4.785M weights; 23,438 steps of 128", "34.17M weights; 400,000 steps of 128"]
    assert all(text in printed for text in wanted[preset])


@pytest.mark.parametrize(("preset", "members"), [("imagenet", 50_000), ("finetune", 2_500), ("lora", 2_500)])
def test_a_preset_on_other_models_needs_their_configurations_alone(
    preset: str, members: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Their weights may be gigabytes on the hub, or not be there."""
    target = tiny.stable_diffusion(tmp_path / "target")
    for weights in target.rglob("*.safetensors"):
        weights.unlink()
    small = ["--denoiser.channels", "32,64", "--denoiser.attention", "1"]
    given = {"imagenet": ["--autoencoder.pretrained", str(target / "vae"), *small]}.get(preset, ["--base", str(target)])
    capfd.readouterr()
    assert main(["train", "--preset", preset, *given, "--size", "16", "--dry-run"]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    assert f"{members:,}, as in the paper" in printed.out
    assert "steps of" in printed.out
    # Of a wrong base it says what the training would.
    assert main(["train", "--preset", preset, *given, "--size", "64", "--dry-run"]) == (
        0 if "imagenet" in preset else 2
    )


def test_hardware_is_for_dry_runs_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--shards", "s", "--out", "o", "--hardware.flops", "1e12"]) == 2
    assert "hardware: its numbers are for --dry-run" in capsys.readouterr().err
    assert main(["train", "--preset", "imagenet", "--dry-run"]) == 2
    assert "give autoencoder.pretrained" in capsys.readouterr().err
