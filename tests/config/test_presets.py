"""The presets of `ldm-scale train`: what the paper says of each, what is asked for, and what wins over them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm_scale.cli import make_parser
from ldm_scale.config.base import DEMO, build
from ldm_scale.config.presets import PRESETS
from ldm_scale.config.train import TrainConfig
from ldm_scale.errors import UsageError
from ldm_scale.flags import collect
from ldm_scale.training.models import make_models

SOURCES = {
    "imagenet": {"autoencoder": {"pretrained": "sd-vae-ft-mse"}},
    "imagenet-small": {"autoencoder": {"pretrained": "sd-vae-ft-mse"}},
    "finetune": {"base": "stable-diffusion-v1-4"},
    "lora": {"base": "stable-diffusion-v1-4"},
}


def preset(name: str, **over: Any) -> TrainConfig:
    return build(TrainConfig, {"preset": name, "shards": "s", "out": "o", **SOURCES.get(name, {}), **over})


def test_the_demo_is_the_recipe_of_the_shipped_target() -> None:
    shipped = json.loads((DEMO / "target" / "training.json").read_text())["recipe"]
    assert build(TrainConfig, {"shards": "s", "out": "o"}) == preset("demo")
    # Its autoencoder is of an earlier training by the same options.
    config = preset("demo", autoencoder={"pretrained": shipped["autoencoder"]["pretrained"]})
    assert json.loads(json.dumps(config.recipe())) == shipped
    assert [stage.steps(600) for stage in preset("demo").stages().values()] == [1200, 1500]


# How the authors' targets were trained, transcribed from their code; options by their names.
SCRATCH = {
    "rate": 2e-4,
    "weight_decay": 1e-4,
    "decay": "constant",
    "warmup": 0,
    "clip": 1.0,
    "accumulate": 1,
    "dropout": 0.1,
}
AUTOENCODER = {**SCRATCH, "kind": "strided", "channels": (128, 128, 256), "layers": 1, "epochs": 120, "scaled": False}
UNCONDITIONAL = {
    **SCRATCH,
    "kind": "unet",
    "layers": 2,
    "attention": 0,
    "classes": False,
    "ema": None,
    "betas": (1e-4, 0.02),
    "latent": "mode",
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "cifar10": {
        "whole": {"size": 32, "flip": True, "precision": "float32", "images.crop": None},
        "autoencoder": {**AUTOENCODER, "batch": 128, "kl_weight": 1e-2},
        "denoiser": {**UNCONDITIONAL, "channels": (128, 256, 256, 256), "epochs": 2048, "batch": 128},
    },
    "celeba": {
        "whole": {"size": 64, "flip": True, "precision": "float32", "images.crop": 140},
        "autoencoder": {**AUTOENCODER, "batch": 256, "kl_weight": 1e-3},
        "denoiser": {**UNCONDITIONAL, "channels": (224, 448, 672, 896), "epochs": 512, "batch": 256},
    },
    "imagenet": {
        "whole": {"size": 256, "flip": True, "precision": "float16", "images.crop": None, "images.filter": "bicubic"},
        "denoiser": {
            "kind": "class-token",
            "classes": True,
            "channels": (192, 384, 576, 960),
            "layers": 2,
            "attention": 3,
            "dropout": 0,
            "epochs": 600,
            "batch": 126,
            "accumulate": 1,
            "rate": 1e-4,
            "weight_decay": 0,
            "decay": "cosine",
            "warmup": 1000,
            "clip": 0,
            "ema": None,
            "betas": (1.5e-3, 1.95e-2),
            "latent": "mode",
        },
    },
    "finetune": {
        "whole": {
            "size": 512,
            "flip": True,
            "precision": "float16",
            "captions": "random",
            "images.crop": None,
            "images.filter": "lanczos",
        },
        "denoiser": {
            "batch": 4,
            "accumulate": 4,
            "rate": 1e-5,
            "weight_decay": 1e-2,
            "decay": "constant",
            "warmup": 0,
            "clip": 1.0,
            "ema": 0.9999,
            "latent": "sample",
        },
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_presets_are_the_authors_recipes(name: str) -> None:
    config, wanted = preset(name), PUBLISHED[name]
    assert list(config.stages()) == [stage for stage in wanted if stage != "whole"]
    for part, options in wanted.items():
        values = config.model_dump() if part == "whole" else getattr(config, part).model_dump()
        found = {key: values["images"][key[7:]] if key.startswith("images.") else values[key] for key in options}
        assert found == options, part


def test_fine_tunings_are_as_long_as_the_authors() -> None:
    denoiser = preset("finetune").denoiser
    assert (denoiser.steps(2_500), denoiser.steps(10_000)) == (50_000, 200_000)
    # As the worked path of jobs/README.md has it.
    assert preset("finetune", denoiser={"epochs": 144.23}).denoiser.steps(416) == 15_000


@pytest.mark.parametrize(("name", "unet", "autoencoder"), [("cifar10", 34.2, 4.79), ("celeba", 241.7, 4.79)])
def test_the_papers_networks_are_as_large_as_the_authors(name: str, unet: float, autoencoder: float) -> None:
    with torch.device("meta"):
        made = make_models(preset(name), 0, torch.device("meta"))
    for network, millions in ((made.denoiser, unet), (made.autoencoder, autoencoder)):
        digits = len(f"{millions}".partition(".")[2])
        assert round(sum(weight.numel() for weight in network.parameters()) / 1e6, digits) == millions


@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("-small")])
def test_the_smaller_presets_are_smaller(name: str) -> None:
    small, whole = preset(name), preset(name.removesuffix("-small"))
    assert (small.size, small.images, list(small.stages())) == (whole.size, whole.images, list(whole.stages()))
    assert sum(small.denoiser.channels) < sum(whole.denoiser.channels)


@pytest.mark.parametrize("name", ["lora", "cifar10-small", "celeba-small", "imagenet-small"])
def test_older_trainings_recipes_name_no_later_option(name: str) -> None:
    recipe = preset(name).recipe()
    later = {"flip", "captions", "cpus"} & recipe.keys()
    stages = {"accumulate", "decay", "warmup", "weight_decay", "clip", "dropout", "scaled", "latent", "betas", "kind"}
    assert later | (stages & (recipe["autoencoder"].keys() | recipe["denoiser"].keys())) == set()
    assert {"rate", "batch", "epochs"} <= recipe["denoiser"].keys()


def test_later_options_are_named_if_they_are_chosen() -> None:
    recipe = preset("demo", flip=True, denoiser={"clip": 0}, autoencoder={"clip": 2}).recipe()
    assert recipe["flip"] is True
    assert (recipe["denoiser"]["latent"], recipe["denoiser"]["clip"], recipe["autoencoder"]["clip"]) == ("sample", 0, 2)
    assert "weight_decay" not in recipe["denoiser"]


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
        ({"denoiser": {"channels": "0,4"}}, r"^denoiser\.channels\.0: "),
        ({"autoencoder": {"channels": []}}, r"^autoencoder\.channels: "),
        ({"denoiser": {"epochs": "inf"}}, r"^denoiser\.epochs: "),
        ({"denoiser": {"epochs": 1e300}}, r"^denoiser\.epochs: "),
        ({"autoencoder": {"kl_weight": float("inf")}}, r"^autoencoder\.kl_weight: "),
        ({"preset": "imagenet"}, r"^preset imagenet: give autoencoder\.pretrained$"),
        ({"preset": "finetune"}, "^preset finetune: give base$"),
        ({"lora_rank": 4}, "^lora_rank: .*; give base$"),
        ({"base": "b", "autoencoder": {"pretrained": "p"}}, "^base: it brings its own autoencoder"),
        ({"base": "b", "denoiser": {"classes": True}}, "^base: .* not classes$"),
        ({"denoiser": {"attention": 4}}, r"^denoiser\.attention: the U-Net has 3 resolutions$"),
        ({"autoencoder": {"batch": 9}, "workers": 2}, r"^autoencoder\.batch = 9 is not a multiple of workers = 2$"),
        ({"images": {"size": 64}}, r"^images\.size = 64: give size alone$"),
        (
            {"denoiser": {"batch": 6, "accumulate": 4}},
            r"^denoiser\.batch = 6 .* = 1 times .*\.accumulate = 4$",
        ),
        ({"denoiser": {"betas": "0.1"}}, r"^denoiser\.betas: give the first and the last"),
        ({"denoiser": {"betas": "0.2,0.1"}}, r"^denoiser\.betas: give the first and the last"),
        ({"denoiser": {"betas": "0,0.1"}}, r"^denoiser\.betas: give the first and the last"),
        ({"denoiser": {"dropout": 1}}, r"^denoiser\.dropout: "),
    ],
)
def test_what_contradicts_itself_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(TrainConfig, {"shards": "s", "out": "o", **values})


def test_a_frozen_autoencoder_s_batch_does_not_matter() -> None:
    assert preset("imagenet", workers=63).workers == 63
