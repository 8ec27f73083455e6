"""What makes a folder a target, and what is refused."""

import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
from diffusers import UNet2DModel

from ldm_scale.errors import UsageError
from ldm_scale.targets import load_target, target_digest
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


def test_the_autoencoder_may_be_called_vae(copy: Path) -> None:
    (copy / "vqvae").rename(copy / "vae")
    assert load_target(str(copy), "cpu").latent_shape == (4, 4, 4)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"_class_name": "FluxTransformer2DModel"}, "FluxTransformer2DModel"),
        ({"_class_name": "Transformer2DModel", "norm_type": "ada_norm_single"}, "Transformer2DModel"),
        ({"_class_name": "UNet2DConditionModel", "addition_embed_type": "text_time"}, "UNet2DConditionModel"),
        ({"class_embed_type": "timestep"}, "UNet2DModel"),
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


@pytest.mark.parametrize("changes", [{"prediction_type": "sample"}, {"_class_name": "FlowMatchEulerDiscreteScheduler"}])
def test_a_schedule_that_predicts_no_noise_is_named(copy: Path, changes: dict[str, object]) -> None:
    change(copy / "scheduler/scheduler_config.json", **changes)
    refused(copy, "supported are epsilon and v_prediction")


def test_a_denoiser_of_more_than_the_latent_is_named(copy: Path) -> None:
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    UNet2DModel(**tiny.UNET | blocks | {"in_channels": 9}).save_pretrained(copy / "unet")
    refused(copy, "denoiser takes 9 channels and its autoencoder's latents have 4")


@pytest.mark.parametrize(("component", "what"), [("tokenizer", "tokenizer"), ("text_encoder", "text encoder")])
def test_a_missing_part_of_the_text_is_named(text_target: Path, component: str, what: str) -> None:
    shutil.rmtree(text_target / component)
    refused(text_target, f"has no {what}")


def test_a_text_encoder_of_another_class_is_named(text_target: Path) -> None:
    change(text_target / "text_encoder/config.json", architectures=["RobertaModel"])
    refused(text_target, "CLIPTextModel is supported")


def test_a_broken_tokenizer_is_named(text_target: Path) -> None:
    (text_target / "tokenizer/vocab.json").write_text("<html>")
    refused(text_target, "tokenizer cannot be loaded")


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
    """Leaves a trace where it is unpickled."""

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
