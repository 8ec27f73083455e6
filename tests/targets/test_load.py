"""What makes a folder a target, and what is refused."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FluxTransformer2DModel,
    HeunDiscreteScheduler,
    LCMScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from ldm_scale.errors import UsageError
from ldm_scale.targets.load import load_target, target_digest, variants
from ldm_scale.targets.weights import fetch_weights
from tests.targets import tiny


@pytest.fixture
def copy(tiny_target: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_target, tmp_path / "target"))


@pytest.fixture
def text_target(tmp_path: Path) -> Path:
    return tiny.stable_diffusion(tmp_path / "text")


def refused(folder: Path, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        load_target(str(folder), "cpu")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere does not exist")


@pytest.mark.parametrize(
    ("component", "what"), [("unet", "denoiser"), ("vqvae", "autoencoder"), ("scheduler", "scheduler")]
)
def test_a_missing_component_is_named(copy: Path, component: str, what: str) -> None:
    shutil.rmtree(copy / component)
    refused(copy, f"has no {what}")


def test_a_model_of_pixels_is_none_of_latents(tmp_path: Path) -> None:
    """SecMI #9: ddpm-cifar10-32, all of whose files lie in one folder."""
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    UNet2DModel(**tiny.UNET | blocks | {"in_channels": 3, "out_channels": 3}).save_pretrained(tmp_path)
    refused(tmp_path, "has no denoiser: unet/config.json is missing")
    (tmp_path / "unet").mkdir()
    (tmp_path / "config.json").rename(tmp_path / "unet/config.json")
    refused(tmp_path, "has no autoencoder: vae/config.json is missing")


def test_the_autoencoder_may_be_called_vae(copy: Path) -> None:
    (copy / "vqvae").rename(copy / "vae")
    assert load_target(str(copy), "cpu").latent_shape == (4, 4, 4)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"_class_name": "PixArtTransformer2DModel"}, "PixArtTransformer2DModel"),
        ({"_class_name": "Transformer2DModel", "norm_type": "ada_norm_single"}, "Transformer2DModel"),
        (
            {"_class_name": "UNet2DConditionModel", "addition_embed_type": "image"},
            "UNet2DConditionModel with addition_embed_type",
        ),
        # latent-consistency-model #81: its network is always told the scale of the guidance.
        (
            {"_class_name": "UNet2DConditionModel", "time_cond_proj_dim": 256},
            "UNet2DConditionModel with time_cond_proj_dim",
        ),
        ({"class_embed_type": "timestep"}, "UNet2DModel with class_embed_type"),
    ],
)
def test_a_denoiser_of_another_family_is_named(copy: Path, changes: dict[str, object], name: str) -> None:
    change(copy / "unet/config.json", **changes)
    change(copy / "model_index.json", _class_name="OtherPipeline")
    refused(copy, f"is a {name} of OtherPipeline; supported are unconditional")
    (copy / "model_index.json").unlink()
    refused(copy, f"is a {name}; supported are unconditional")


def test_an_autoencoder_of_another_class_is_named(copy: Path) -> None:
    change(copy / "vqvae/config.json", _class_name="AutoencoderDC")
    refused(copy, "is a AutoencoderDC; supported are AutoencoderKL, VQModel")


def test_an_autoencoder_with_a_scale_for_each_channel_is_named(copy: Path) -> None:
    change(copy / "vqvae/config.json", latents_mean=[0.0] * 4)
    refused(copy, "vqvae scales its latents by channel, which is not supported")


@pytest.mark.parametrize("kinds", [("CrossAttnDownBlock2D", None), ("DownBlock2D", "UNetMidBlock2DCrossAttn")])
def test_a_unet_of_classes_and_text_is_named(tmp_path: Path, kinds: tuple[str, str | None]) -> None:
    folder = tiny.class_conditional_unet(tmp_path)
    change(folder / "unet/config.json", down_block_types=[kinds[0], "DownBlock2D"], mid_block_type=kinds[1])
    refused(folder, "is a UNet2DConditionModel with num_class_embeds of LDMPipeline; supported are unconditional")


@pytest.mark.parametrize(
    "changes",
    [
        {"prediction_type": "sample"},
        {"_class_name": "FlowMatchEulerDiscreteScheduler"},
        {"_class_name": "EDMDPMSolverMultistepScheduler"},
    ],
)
def test_a_schedule_that_predicts_no_noise_is_named(copy: Path, changes: dict[str, object]) -> None:
    change(copy / "scheduler/scheduler_config.json", **changes)
    refused(copy, "supported are epsilon and v_prediction")


@pytest.mark.parametrize("kind", [LCMScheduler, HeunDiscreteScheduler, EulerDiscreteScheduler, DDIMScheduler])
def test_what_a_schedule_does_not_say_is_its_samplers_default(text_target: Path, kind: Any) -> None:
    """diffusers #3280: not DDPM's, whose betas are others; what it does say stays."""
    file = text_target / "scheduler/scheduler_config.json"
    for said in ({}, {"beta_end": 0.015}, {"trained_betas": np.linspace(0.001, 0.02, 1000).tolist()}):
        file.write_text(json.dumps({"_class_name": kind.__name__, "prediction_type": "v_prediction", **said}))
        target = load_target(str(text_target), "cpu")
        torch.testing.assert_close(target.alphas_cumprod, kind(**said).alphas_cumprod)
        assert target._schedule._prediction_type == "v_prediction"


def test_a_denoiser_of_more_than_the_latent_is_named(copy: Path) -> None:
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    UNet2DModel(**tiny.UNET | blocks | {"in_channels": 9}).save_pretrained(copy / "unet")
    refused(copy, "denoiser takes 9 channels and its autoencoder's latents have 4")


def test_flow_matching_needs_its_own_schedule(tmp_path: Path) -> None:
    folder = tiny.flux(tmp_path)
    change(folder / "scheduler/scheduler_config.json", _class_name="DDPMScheduler")
    refused(folder, "is a DDPMScheduler; supported is FlowMatchEulerDiscreteScheduler")


def test_a_packed_denoiser_of_more_than_the_latent_is_named(tmp_path: Path) -> None:
    folder = tiny.flux(tmp_path)
    FluxTransformer2DModel(**tiny.FLUX | {"in_channels": 32}).save_pretrained(folder / "transformer")
    refused(folder, "takes 32 channels and its autoencoder's latents have 4, 16 when packed")


@pytest.mark.parametrize(("component", "what"), [("tokenizer_3", "tokenizer"), ("text_encoder_2", "text encoder")])
def test_a_missing_part_of_several_texts_is_named(tmp_path: Path, component: str, what: str) -> None:
    folder = tiny.stable_diffusion_3(tmp_path)
    shutil.rmtree(folder / component)
    refused(folder, f"has no {what}: {component}/")


def noise_of(folder: Path) -> torch.Tensor:
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    target = load_target(str(folder), "cpu")
    return target.predict_noise(z, tiny.at(100, z), target.condition(["a cat"], [None]))


MODELS = (("unet", UNet2DConditionModel), ("text_encoder", CLIPTextModel))


def resave(folder: Path, **options: Any) -> None:
    """Write denoiser and text encoder anew, after removing their weights."""
    for name, kind in MODELS:
        model = kind.from_pretrained(folder / name)
        for path in folder.glob(f"{name}/*.safetensors"):
            path.unlink()
        model.save_pretrained(folder / name, **options)


def test_weights_in_several_files_are_read(text_target: Path) -> None:
    expected = noise_of(text_target)
    resave(text_target, max_shard_size="4KB")
    for name, _ in MODELS:
        assert len(list(text_target.glob(f"{name}/*-of-*.safetensors"))) > 1
    torch.testing.assert_close(noise_of(text_target), expected)


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "4KB"}])
def test_half_precision_is_read_where_there_is_no_other(text_target: Path, options: dict[str, str]) -> None:
    expected = noise_of(text_target)
    resave(text_target, variant="fp16", **options)
    for name, _ in MODELS:
        assert all(".fp16" in path.name for path in text_target.glob(f"{name}/*.safetensors"))
    torch.testing.assert_close(noise_of(text_target), expected)


def test_a_variant_in_parts_may_be_named_behind_the_number(text_target: Path) -> None:
    """diffusers #8902: model-00001-of-00002.fp16, as well as model.fp16-00001-of-00002."""
    expected = noise_of(text_target)
    resave(text_target, variant="fp16", max_shard_size="4KB")
    for path in [*text_target.glob("*/*.fp16-*.safetensors"), *text_target.glob("*/*.index.fp16.json")]:
        pattern, behind = r"\.fp16(-\d+-of-\d+)\.safetensors", r"\1.fp16.safetensors"
        if path.suffix == ".json":
            path.write_text(re.sub(pattern, behind, path.read_text()))
        else:
            path.rename(path.with_name(re.sub(pattern, behind, path.name)))
    torch.testing.assert_close(noise_of(text_target), expected)


@pytest.mark.parametrize("name", ["unet", "text_encoder"])
def test_weights_that_were_saved_twice_are_refused(text_target: Path, name: str) -> None:
    """diffusers #8898: save_pretrained leaves an older save's parts, and their index wins over the new weights."""
    kind = dict(MODELS)[name]
    older = kind.from_pretrained(text_target / name)
    older.save_pretrained(text_target / "older", max_shard_size="4KB")
    for path in [*(text_target / "older").glob("*.safetensors*")]:
        path.rename(text_target / name / path.name)
    refused(text_target, "has its weights both whole and in parts")


def test_an_index_that_an_older_save_left_is_named(text_target: Path) -> None:
    index = {"weight_map": {"conv_in.weight": "diffusion_pytorch_model-00001-of-00002.safetensors"}}
    (text_target / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    refused(text_target, "unet cannot be loaded: ")


def test_full_precision_is_read_where_there_are_both(text_target: Path) -> None:
    expected = noise_of(text_target)
    for name, _ in MODELS:
        for path in list(text_target.glob(f"{name}/*.safetensors")):
            zeros = {key: torch.zeros_like(value) for key, value in load_file(path).items()}
            save_file(zeros, path.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
    torch.testing.assert_close(noise_of(text_target), expected)


def as_variant(folder: Path, name: str, keep: bool = False) -> None:
    """Rename the U-Net's weights, or put zeros beside them, as a variant."""
    plain = folder / "unet/diffusion_pytorch_model.safetensors"
    if keep:
        zeros = {key: torch.zeros_like(value) for key, value in load_file(plain).items()}
        save_file(zeros, plain.with_suffix(f".{name}.safetensors"), metadata={"format": "pt"})
    else:
        plain.rename(plain.with_suffix(f".{name}.safetensors"))


@pytest.mark.parametrize("name", ["bf16", "fp16", "fp32", "non_ema"])
def test_the_only_variant_is_read_and_said(text_target: Path, name: str) -> None:
    expected = noise_of(text_target)
    assert variants(text_target) == {}
    as_variant(text_target, name)
    torch.testing.assert_close(noise_of(text_target), expected)
    assert variants(text_target) == {"unet": name}
    assert fetch_weights(str(text_target)).describe() == f"unet in {name}"
    before = target_digest(text_target)
    with (text_target / f"unet/diffusion_pytorch_model.{name}.safetensors").open("ab") as file:
        file.write(b" ")
    assert target_digest(text_target) != before


@pytest.mark.parametrize(
    ("better", "worse"),
    [("fp16", "non_ema"), ("fp16", "bf16"), ("fp32", "fp16"), ("bf16", "non_ema"), ("fp32", "non_ema")],
)
def test_the_best_variant_is_read(text_target: Path, better: str, worse: str) -> None:
    expected = noise_of(text_target)
    as_variant(text_target, worse, keep=True)
    torch.testing.assert_close(noise_of(text_target), expected)
    as_variant(text_target, better)
    torch.testing.assert_close(noise_of(text_target), expected)
    assert variants(text_target) == {"unet": better}


def test_weights_of_which_none_is_known_are_named(text_target: Path) -> None:
    as_variant(text_target, "ema", keep=True)
    as_variant(text_target, "non_ema")
    refused(text_target, "diffusion_pytorch_model.ema.safetensors, diffusion_pytorch_model.non_ema.safetensors")
    for path in text_target.glob("unet/*.safetensors"):
        path.rename(path.with_name(f"mine-{path.name}"))
    refused(text_target, "mine-diffusion_pytorch_model.ema.safetensors")


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("make", "part", "size"),
    [
        (tiny.vq_ldm, "unet", [4, 4]),
        (tiny.stable_diffusion, "unet", [4, 4]),
        (tiny.dit, "transformer", [4, 4]),
        (tiny.flux, "vae", [16, 16]),
    ],
)
def test_a_square_may_be_given_by_both_sides(
    make: Callable[[Path], Path], part: str, size: list[int], device: str, tmp_path: Path
) -> None:
    folder = make(tmp_path)
    expected = load_target(folder, device)
    change(folder / part / "config.json", sample_size=size)
    found = load_target(folder, device)
    assert (found.latent_shape, found.image_size) == (expected.latent_shape, expected.image_size)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("size", [[4, 8], [4], [4, 4, 4], "4", 4.5, [None, None], {}, 0, True])
def test_another_sample_size_is_named_with_file_and_key(copy: Path, size: object, device: str) -> None:
    change(copy / "unet/config.json", sample_size=size)
    with pytest.raises(UsageError, match=rf"{copy}/unet/config\.json: sample_size = .*; set one number") as caught:
        load_target(copy, device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "part"), [(tiny.flux, "vae"), (tiny.dit, "transformer"), (tiny.stable_diffusion_3, "transformer")]
)
def test_a_component_without_the_size_that_it_needs_is_named(
    make: Callable[[Path], Path], part: str, tmp_path: Path
) -> None:
    folder = make(tmp_path)
    change(folder / part / "config.json", sample_size=None)
    refused(folder, f"{part}/config.json: sample_size = null: only square images are audited; set one number")


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("scaling_factor", value) for value in (None, "0.18", [0.18], 0, -1.0, True, float("nan"), float("inf"))),
        *(("shift_factor", value) for value in ("0", [], float("nan"))),
    ],
)
def test_a_factor_that_is_no_number_is_named_with_file_and_key(
    copy: Path, key: str, value: object, device: str
) -> None:
    change(copy / "vqvae/config.json", **{key: value})
    with pytest.raises(UsageError, match=rf"{copy}/vqvae/config\.json: {key} = .*; set the model's own") as caught:
        load_target(copy, device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "name"),
    [("unet/diffusion_pytorch_model", "conv_in.bias"), ("text_encoder/model", "embeddings.position_embedding.weight")],
)
def test_missing_weights_are_not_made_up(text_target: Path, part: str, name: str) -> None:
    path = text_target / f"{part}.safetensors"
    weights = load_file(path)
    (key,) = [key for key in weights if key.endswith(name)]
    del weights[key]
    save_file(weights, path, metadata={"format": "pt"})
    refused(text_target, f"1 weights are not in its files, the first is {key}")


def test_loading_shows_no_bars(text_target: Path, capfd: pytest.CaptureFixture[str]) -> None:
    transformers.logging.enable_progress_bar()
    load_target(str(text_target), "cpu")
    assert "Loading" not in capfd.readouterr().err


@pytest.mark.parametrize(("component", "what"), [("tokenizer", "tokenizer"), ("text_encoder", "text encoder")])
def test_a_missing_part_of_the_text_is_named(text_target: Path, component: str, what: str) -> None:
    shutil.rmtree(text_target / component)
    refused(text_target, f"has no {what}")


def test_a_text_encoder_of_another_class_is_named(text_target: Path) -> None:
    change(text_target / "text_encoder/config.json", architectures=["RobertaModel"])
    refused(text_target, "CLIPTextModel is supported")


def test_a_broken_tokenizer_is_named(text_target: Path) -> None:
    (text_target / "tokenizer/vocab.json").write_text("<html>")
    refused(text_target, "tokenizer/vocab.json holds no table of JSON")


@pytest.mark.parametrize("part", ["tokenizer/merges.txt", "tokenizer/vocab.json", "text_encoder/model.safetensors"])
def test_the_digest_covers_the_text(text_target: Path, part: str) -> None:
    before = target_digest(str(text_target))
    with (text_target / part).open("ab") as file:
        file.write(b" ")
    assert target_digest(str(text_target)) != before


@pytest.mark.parametrize("text", ["<html>", "[]", "{}"])
def test_a_broken_configuration_is_named(copy: Path, text: str) -> None:
    (copy / "unet/config.json").write_text(text)
    refused(copy, "unet/config.json is not a configuration of diffusers or transformers: it has no _class_name")


def test_broken_weights_are_named(copy: Path) -> None:
    (copy / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    refused(copy, "unet cannot be loaded")


class _Planted:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, (f"open({str(self.trace)!r}, 'w').close()",))


def test_a_pickle_of_weights_is_not_read(copy: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (copy / "unet/diffusion_pytorch_model.safetensors").unlink()
    (copy / "unet/diffusion_pytorch_model.bin").write_bytes(pickle.dumps(_Planted(trace)))
    refused(copy, "has no .safetensors file")
    assert not trace.exists()


def test_the_digest_follows_the_weights_and_not_the_place(copy: Path, tiny_target: Path) -> None:
    assert target_digest(str(copy)) == target_digest(str(tiny_target))
    path = copy / "unet/diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert target_digest(str(copy)) != target_digest(str(tiny_target))


@pytest.mark.parametrize("make", [tiny.vq_ldm, tiny.class_unet, tiny.stable_diffusion, tiny.stable_diffusion_3])
def test_of_shapes_alone_it_says_what_the_loaded_one_says(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path / "target")
    loaded = load_target(folder, "cpu", 32)
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    outline = load_target(folder, "meta", 32)
    assert (outline.latent_shape, outline.image_size) == (loaded.latent_shape, loaded.image_size)
    torch.testing.assert_close(outline.alphas_cumprod, loaded.alphas_cumprod)
    shapes = [(weight.shape, weight.dtype) for weight in loaded.weights()]
    assert [(weight.shape, weight.dtype) for weight in outline.weights()] == shapes
    assert all(weight.is_meta for weight in outline.weights())


def test_shapes_alone_are_refused_as_weights_are(text_target: Path) -> None:
    change(text_target / "text_encoder/config.json", hidden_size="wide")
    with pytest.raises(UsageError, match=r"target text encoder .*/text_encoder cannot be loaded: "):
        load_target(text_target, "meta")
