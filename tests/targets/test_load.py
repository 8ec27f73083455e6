"""What makes a folder a target, and what is refused."""

import json
import pickle
import re
import shutil
from pathlib import Path

import pytest

from ldm_scale.errors import UsageError
from ldm_scale.targets import load_target, target_digest


@pytest.fixture
def copy(tiny_target: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_target, tmp_path / "target"))


def refused(folder: Path, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        load_target(str(folder), "cpu")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere does not exist")


@pytest.mark.parametrize(
    ("component", "what"), [("unet", "U-Net"), ("vqvae", "autoencoder"), ("scheduler", "scheduler")]
)
def test_a_missing_component_is_named(copy: Path, component: str, what: str) -> None:
    shutil.rmtree(copy / component)
    refused(copy, f"has no {what}")


def test_the_autoencoder_may_be_called_vae(copy: Path) -> None:
    (copy / "vqvae").rename(copy / "vae")
    assert load_target(str(copy), "cpu").latent_shape == (4, 4, 4)


def test_a_component_of_another_class_is_named(copy: Path) -> None:
    path = copy / "unet/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "FluxTransformer2DModel"}))
    refused(copy, "is a FluxTransformer2DModel; UNet2DModel is supported")


def test_a_broken_configuration_is_named(copy: Path) -> None:
    (copy / "unet/config.json").write_text("<html>")
    refused(copy, "unet/config.json is not a diffusers configuration")


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
