"""The presets of `ldm-scale train`: what the paper says of each, what is asked for, and what wins over them."""

import json
from pathlib import Path
from typing import Any

import pytest

from ldm_scale.cli import make_parser
from ldm_scale.config.base import DEMO, build
from ldm_scale.config.presets import PRESETS
from ldm_scale.config.train import TrainConfig
from ldm_scale.errors import UsageError
from ldm_scale.flags import collect

SOURCES = {
    "imagenet": {"autoencoder": {"pretrained": "sd-vae-ft-mse"}},
    "finetune": {"base": "stable-diffusion-v1-4"},
    "lora": {"base": "stable-diffusion-v1-4"},
}


def preset(name: str, **over: Any) -> TrainConfig:
    return build(TrainConfig, {"preset": name, "shards": "s", "out": "o", **SOURCES.get(name, {}), **over})


def test_the_demo_is_the_recipe_of_the_shipped_target() -> None:
    shipped = json.loads((DEMO / "target" / "training.json").read_text())["recipe"]
    config = build(TrainConfig, {"shards": "s", "out": "o"})
    assert config == preset("demo")
    members = 600
    found = {"vae": config.autoencoder, "unet": config.denoiser}
    for name, stage in found.items():
        assert list(stage.channels) == shipped[f"{name}_channels"]
        assert stage.steps(members) == shipped[f"{name}_steps"]
        assert stage.batch == shipped[f"{name}_batch"]
        assert stage.rate == shipped[f"{name}_lr"]
    assert config.autoencoder.kl_weight == shipped["kl_weight"]
    assert (config.denoiser.layers, config.denoiser.attention, config.denoiser.ema) == (shipped["unet_layers"], 0, None)
    assert (config.seed, config.size, config.half) == (shipped["seed"], shipped["size"], shipped["half"])
    assert config.images.model_dump() == shipped["images"]


def test_what_the_paper_says_of_its_targets() -> None:
    cifar10, celeba, imagenet = preset("cifar10"), preset("celeba"), preset("imagenet")
    for config, size, kl_weight in ((cifar10, 32, 1e-2), (celeba, 64, 1e-3)):
        assert (config.size, config.autoencoder.kl_weight) == (size, kl_weight)
        assert len(config.autoencoder.channels) == 3
        assert list(config.stages()) == ["autoencoder", "denoiser"]
        assert not config.denoiser.classes
    assert celeba.images.crop == 140
    assert (imagenet.size, imagenet.images.filter, imagenet.denoiser.classes) == (256, "bicubic", True)
    for name in ("finetune", "lora"):
        assert (preset(name).size, preset(name).images.filter) == (512, "bilinear")
    for config in (imagenet, preset("finetune"), preset("lora")):
        assert list(config.stages()) == ["denoiser"]


@pytest.mark.parametrize("name", PRESETS)
def test_the_networks_halve_every_preset_s_images_to_whole_numbers(name: str) -> None:
    config = preset(name)
    factor = 8 if name in SOURCES else 4
    assert config.size % (factor * 2 ** (len(config.denoiser.channels) - 1)) == 0


def test_file_and_flags_win_over_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("preset: cifar10\nautoencoder: {epochs: 3}\ndenoiser: {epochs: 4}\n")
    arguments = ["train", "--shards", "s", "--out", "o", "--config", str(path), "--denoiser.epochs", "5"]
    config = build(TrainConfig, collect(make_parser().parse_args(arguments), TrainConfig, {}))
    assert (config.autoencoder.epochs, config.denoiser.epochs) == (3, 5)
    assert config.denoiser.channels == preset("cifar10").denoiser.channels


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "cifar"}, "^preset: Input should be 'demo'"),
        ({"preset": ["demo"]}, "^preset: "),
        ({"preset": "imagenet"}, r"^preset imagenet: give autoencoder\.pretrained$"),
        ({"preset": "finetune"}, "^preset finetune: give base$"),
        ({"lora_rank": 4}, "^lora_rank: .*; give base$"),
        ({"base": "b", "autoencoder": {"pretrained": "p"}}, "^base: it brings its own autoencoder"),
        ({"base": "b", "denoiser": {"classes": True}}, "^base: .* not classes$"),
        ({"denoiser": {"attention": 4}}, r"^denoiser\.attention: the U-Net has 3 resolutions$"),
        ({"autoencoder": {"batch": 9}, "workers": 2}, r"^autoencoder\.batch = 9 is not a multiple of workers = 2$"),
        ({"images": {"size": 64}}, r"^images\.size = 64: give size alone$"),
    ],
)
def test_what_contradicts_itself_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(TrainConfig, {"shards": "s", "out": "o", **values})


def test_a_frozen_autoencoder_s_batch_does_not_matter() -> None:
    assert preset("imagenet", workers=64).workers == 64
