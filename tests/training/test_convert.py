"""Checkpoints of the paper's authors become targets: the same numbers as plain torch, or one line that says why not."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from ldm_scale.cli import main
from ldm_scale.config.convert import ConvertConfig
from ldm_scale.targets import unpickle
from ldm_scale.targets.base import Target
from ldm_scale.targets.load import load_target, target_digest
from ldm_scale.training import convert as conversion
from ldm_scale.training.published import Misfit, find_autoencoder, find_unet
from tests.targets import published, tiny

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
LATENTS = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(1))
NEAR = {"rtol": 0.0, "atol": 1e-6}


def convert(folder: Path, out: str = "target", **changes: object) -> Path:
    given = {"autoencoder": folder / "vae_last.pt", "unet": folder / "unet_last.pt", "out": folder / out} | changes
    conversion.convert(ConvertConfig(size=16, **{name: str(value) for name, value in given.items()}))
    return Path(given["out"])


def read_here(path: Path) -> dict[str, torch.Tensor]:
    """What `read_checkpoint` does, without a process of its own."""
    return unpickle.find_states(torch.load(path, weights_only=True))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "read_checkpoint", read_here)


def predict(target: Target, t: int, labels: list[int | None]) -> torch.Tensor:
    with torch.no_grad():
        return target.predict_noise(LATENTS, tiny.at(t, LATENTS), target.condition([None] * 3, labels))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the authors' scripts."""
    folder = tmp_path_factory.mktemp("saved")
    torch.save(published.autoencoder().state_dict(), folder / "vae_last.pt")
    torch.save(published.unet().state_dict(), folder / "unet_last.pt")
    return folder


@pytest.mark.usefixtures("here")
def test_a_from_scratch_target_gives_the_same_numbers(saved: Path, tmp_path: Path) -> None:
    autoencoder, unet = published.autoencoder(), published.unet()
    folder = convert(saved, out=str(tmp_path / "target"))
    target = load_target(folder, "cpu")
    assert (target.image_size, target.latent_shape) == (16, (4, 4, 4))
    with torch.no_grad():
        mean, logvar = autoencoder.encode(IMAGES)
        noise = torch.ones_like(mean)
        torch.testing.assert_close(target.encode(IMAGES, None), mean, **NEAR)
        torch.testing.assert_close(target.encode(IMAGES, noise), mean + (logvar / 2).exp(), **NEAR)
        torch.testing.assert_close(target.decode(LATENTS), autoencoder.decode(LATENTS), **NEAR)
        for t in (0, 7, 999):
            torch.testing.assert_close(predict(target, t, [None] * 3), unet(LATENTS, tiny.at(t, LATENTS)), **NEAR)
    betas = torch.linspace(1e-4, 0.02, 1000)
    torch.testing.assert_close(target.alphas_cumprod, (1 - betas).cumprod(0), rtol=1e-5, atol=0)
    assert target_digest(convert(saved, out=str(tmp_path / "again"))) == target_digest(folder)


def write_class_token(path: Path) -> tuple[Any, torch.nn.Embedding]:
    """As the authors' ImageNet script saves it, with an optimiser and what else it needs to go on."""
    unet, tokens = published.class_token()
    optimiser = torch.optim.AdamW([*unet.parameters(), *tokens.parameters()])
    sum(weight.sum() for weight in (*unet.parameters(), *tokens.parameters())).backward()
    optimiser.step()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1.0)
    states = {"model": unet, "class_embed": tokens, "opt": optimiser, "sched": schedule}
    torch.save(
        {name: part.state_dict() for name, part in states.items()} | {"epoch": 3, "num_classes": published.CLASSES},
        path,
    )
    return unet, tokens


@pytest.mark.usefixtures("here")
def test_an_imagenet_target_gives_the_same_numbers(tmp_path: Path) -> None:
    unet, tokens = write_class_token(tmp_path / "unet_last.pt")
    tiny.kl().save_pretrained(tmp_path / "vae")
    target = load_target(convert(tmp_path, autoencoder=tmp_path / "vae"), "cpu")
    pretrained = AutoencoderKL.from_pretrained(tmp_path / "vae", low_cpu_mem_usage=False).eval()
    labels: list[int | None] = [3, 0, 4]
    with torch.no_grad():
        for t in (0, 640):
            noise = unet(LATENTS, tiny.at(t, LATENTS), tokens(torch.tensor(labels))[:, None]).sample
            torch.testing.assert_close(predict(target, t, labels), noise, **NEAR)
        latents = pretrained.encode(IMAGES).latent_dist.mean * pretrained.config.scaling_factor
    torch.testing.assert_close(target.encode(IMAGES, None), latents)
    betas = torch.linspace(1.5e-3, 1.95e-2, 1000)
    torch.testing.assert_close(target.alphas_cumprod, (1 - betas).cumprod(0), rtol=1e-5, atol=0)
    assert target.refusal(None, published.CLASSES) is not None


@pytest.mark.parametrize("wrap", [
    lambda state: {f"module.{name}": weight for name, weight in state.items()},
    lambda state: {"state_dict": {f"_orig_mod.module.{name}": weight for name, weight in state.items()}, "epoch": 1},
    # An average is what one samples with.
    lambda state: {"model": {name: weight + 1 for name, weight in state.items()}, "ema": state},
])  # fmt: skip
def test_prefixes_are_no_part_of_a_name(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    state = published.autoencoder().state_dict()
    torch.save(wrap(state), tmp_path / "vae.pt")
    found = find_autoencoder(read_here(tmp_path / "vae.pt"), 16)
    torch.testing.assert_close(found.to_mean.weight.data, state["to_mu.weight"])


def test_more_resolutions_and_blocks_are_counted() -> None:
    torch.manual_seed(0)
    unet = published.UNet(32, (1, 2, 2, 3), layers=1).eval()
    made, _ = find_unet(unet.state_dict(), 8)
    z = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(made(z, tiny.at(5, z)).sample, unet(z, tiny.at(5, z)), **NEAR)


@pytest.mark.parametrize(
    ("width", "multiples", "widths", "size"),
    [(128, (1, 2, 2, 2), (128, 256, 256, 256), 34.2e6), (224, (1, 2, 3, 4), (224, 448, 672, 896), 241.7e6)],
)
def test_the_papers_own_sizes_are_found(
    width: int, multiples: tuple[int, ...], widths: tuple[int, ...], size: float
) -> None:
    with torch.device("meta"):
        unet, autoencoder = published.UNet(width, multiples), published.Autoencoder(128)
    made, betas = find_unet(unet.state_dict(), 8)
    assert (made.config.block_out_channels, made.config.layers_per_block, betas) == (widths, 2, (1e-4, 0.02))
    assert sum(weight.numel() for weight in made.parameters()) == pytest.approx(size, rel=0.002)
    found = find_autoencoder(autoencoder.state_dict(), 32)
    assert found.config.block_out_channels == (128, 128, 256)
    assert sum(weight.numel() for weight in found.parameters()) == pytest.approx(4.79e6, rel=0.002)


FULL = {"autoencoder": published.autoencoder().state_dict(), "unet": published.unet().state_dict()}
TOKENS = {**published.class_token()[0].state_dict()}


@pytest.mark.parametrize(
    ("find", "state", "message"),
    [
        (find_autoencoder, {}, "no weight is called to_mu.weight"),
        (find_autoencoder, {"to_mu.weight": torch.zeros(4, 8, 1, 1)}, "enc.0.weight is missing"),
        (
            find_autoencoder,
            {name: weight for name, weight in FULL["autoencoder"].items() if "dec.0" not in name},
            "missing: dec.0.block.0.bias, dec.0.block.0.weight, dec.0.block.2.bias, and 5 more",
        ),
        (find_autoencoder, FULL["autoencoder"] | {"quant.weight": torch.zeros(1)}, "unexpected: quant.weight"),
        (find_autoencoder, FULL["autoencoder"] | {"dec.7.bias": torch.zeros(4)}, "dec.7.bias is [4], not [3]"),
        (find_autoencoder, FULL["autoencoder"] | {"enc.0.weight": torch.zeros(())}, "enc.0.weight has the shape []"),
        (
            find_autoencoder,
            FULL["autoencoder"] | {"enc.0.weight": torch.zeros(0, 3, 3, 3)},
            "has the shape [0, 3, 3, 3]",
        ),
        (find_autoencoder, FULL["autoencoder"] | {"enc.0.weight": torch.zeros(8, 1, 3, 3)}, "images of 1 channels"),
        (find_unet, FULL["autoencoder"], "no weight is called input_blocks.0.0.weight or conv_in.weight"),
        (find_unet, {"conv_in.weight": torch.zeros(8, 4, 3, 3)}, "down_blocks.0.resnets.0.conv1.weight is missing"),
        (find_unet, TOKENS, "class_embed.weight is missing"),
        (find_unet, TOKENS | {"class_embed.weight": torch.zeros(5, 7)}, "attn2.to_k.weight is [64, 512], not [64, 7]"),
        (find_unet, published.UNet(48, (1, 2)).state_dict(), "its width 48 is no multiple of 32"),
        (
            find_unet,
            {name: weight for name, weight in FULL["unet"].items() if ".op." not in name},
            "missing: input_blocks.3.0.op.bias, input_blocks.3.0.op.weight",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(
    find: Callable[..., Any], state: dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(Misfit, match=re.escape(message)):
        find(state, 4)


@pytest.mark.usefixtures("inline")
def test_a_converted_target_is_validated_and_audited(saved: Path, tiny_shards: Path, tmp_path: Path) -> None:
    def run(command: str, **flags: object) -> int:
        words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        return main([command, *words])

    target = tmp_path / "target"
    files = {"autoencoder": saved / "vae_last.pt", "unet": saved / "unet_last.pt"}
    assert run("convert", **files, size=16, out=target) == 0
    assert run("validate", shards=tiny_shards, target=target) == 0
    brief = {"attacks": "sima", "attacks.sima.timesteps": "0,50", "masks.bins": 5, "geometry.distortion": "off"}
    assert run("audit", shards=tiny_shards, target=target, out=tmp_path / "run", **brief) == 0
    assert (tmp_path / "run/results.json").is_file()


@pytest.mark.usefixtures("here")
def test_the_record_names_both_files_even_if_they_have_one_name(saved: Path, tmp_path: Path) -> None:
    files = {what: tmp_path / what / "last.pt" for what in ("autoencoder", "unet")}
    for name, path in zip(("vae_last.pt", "unet_last.pt"), files.values(), strict=True):
        path.parent.mkdir()
        shutil.copy(saved / name, path)
    folder = convert(tmp_path, **files)
    expected = {
        what: {"file": "last.pt", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for what, path in files.items()
    }
    assert json.loads((folder / "training.json").read_text()) == {"converted": expected}


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line that `ldm-scale convert` ends with."""
    assert main(["convert", *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.usefixtures("here")
def test_what_cannot_be_converted_ends_with_one_line(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vae, unet, out = saved / "vae_last.pt", saved / "unet_last.pt", tmp_path / "target"
    given = ("--autoencoder", vae, "--unet", unet, "--size", 16)
    swapped = refused(capsys, "--autoencoder", unet, "--unet", vae, "--size", 16, "--out", out)
    assert "unet_last.pt holds no autoencoder of the paper's authors: no weight is called to_mu.weight" in swapped
    assert "size = 20: " in refused(capsys, *given, "--size", 20, "--out", out)
    assert not out.exists()
    assert f"{saved} is not empty" in refused(capsys, *given, "--out", saved)


def test_a_checkpoint_that_is_not_there_is_not_asked_of_the_hub(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--autoencoder", "vae/vae_lst.pt", "--unet", "unet.pt", "--size", 16, "--out", tmp_path / "target")
    assert "checkpoint vae/vae_lst.pt: No such file" in refused(capsys, *words)
