"""What is stored: folders that diffusers and the audit load, what was frozen byte for byte, adapters alone."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from safetensors.torch import load_file

from ldm_scale.errors import UsageError
from ldm_scale.targets.class_names import read_class_names
from ldm_scale.targets.load import load_target
from ldm_scale.training.conditions import Batch
from ldm_scale.training.saving import save_target
from tests.targets import tiny
from tests.training.cases import models


def shake(module: torch.nn.Module) -> None:
    """Stand in for training: every trained weight moves."""
    with torch.no_grad():
        for weight in module.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn_like(weight)


def test_a_target_is_a_pipeline_that_diffusers_can_sample_from(tiny_target: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(tiny_target, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    assert type(pipeline).__name__ == json.loads((tiny_target / "model_index.json").read_text())["_class_name"]
    made = pipeline(num_inference_steps=2, output_type="np").images
    assert made.shape == (1, 16, 16, 3)


@pytest.mark.parametrize(("half", "dtype"), [(True, torch.float16), (False, torch.float32)])
def test_a_pretrained_autoencoder_is_copied_and_the_unet_stored_as_asked(
    tmp_path: Path, half: bool, dtype: torch.dtype
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    tiny.kl().save_pretrained(source)
    (source / "code.py").write_text("print('never copied')")
    out.mkdir()
    save_target(
        out, models(autoencoder={"pretrained": str(source)}, denoiser={"classes": True}), half, record={"seed": 3}
    )
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert (out / "vqvae" / name).read_bytes() == (source / name).read_bytes()
    assert not list(out.rglob("*.py"))
    weights = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {dtype}
    assert json.loads((out / "training.json").read_text()) == {"seed": 3}
    assert load_target(str(out), "cpu").condition([None], [1]).tolist() == [1]


def test_what_is_copied_is_what_was_read(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    tiny.kl().save_pretrained(source)
    made = models(autoencoder={"pretrained": str(source)})
    (tmp_path / "secret").write_text("hunter2")
    for name in ("notes.txt", "credentials.json", "hidden.safetensors", "diffusion_pytorch_model.fp16.safetensors"):
        (source / name).symlink_to(tmp_path / "secret")
    save_target(out, made, False, record={})
    assert {path.name for path in (out / "vqvae").iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    (source / "config.json").unlink()
    (source / "config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(UsageError, match="leads out of its folder"):
        save_target(tmp_path / "again", made, False, record={})


def test_a_class_conditional_target_names_its_classes_and_diffusers_reads_it(tmp_path: Path) -> None:
    save_target(tmp_path, models(denoiser={"classes": True}), half=False, record={"classes": ["cat", "dog"]})
    assert read_class_names(tmp_path) == ("cat", "dog")
    DiffusionPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False)


def test_the_papers_kinds_are_loaded_as_they_were_trained(tmp_path: Path) -> None:
    kinds = {"autoencoder": {"kind": "strided"}, "denoiser": {"kind": "class-token", "classes": True, "attention": 1}}
    made = models(**kinds)
    z, images = torch.randn(2, 4, 4, 4), torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        condition = made.condition(Batch(images, [1, 0], [None, None]))
        noise = made.denoiser.eval()(z, torch.tensor([7, 7]), **condition).sample
        latents = made.autoencoder.eval().encode(images).latent_dist.mean * 0.7
    save_target(tmp_path, made, half=False, record={"classes": ["cat", "dog"]})
    target = load_target(tmp_path, "cpu")
    assert read_class_names(tmp_path) == ("cat", "dog")
    torch.testing.assert_close(target.encode(images, None), latents)
    torch.testing.assert_close(target.predict_noise(z, tiny.at(7, z), target.condition([None] * 2, [1, 0])), noise)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"id2label": ["cat"]}', '{"id2label": {"1": "cat"}}'])
def test_a_target_that_does_not_name_its_classes_has_no_table(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "model_index.json").write_text(content)
    assert read_class_names(tmp_path) == ()


def test_a_fine_tuned_target_is_the_base_with_another_unet(tmp_path: Path) -> None:
    base, out = tiny.stable_diffusion(tmp_path / "base", "v_prediction"), tmp_path / "out"
    made = models(base=str(base))
    shake(made.denoiser)
    expected = {name: weight.clone() for name, weight in made.denoiser.state_dict().items()}
    out.mkdir()
    save_target(out, made, half=False, record={})
    pipeline = DiffusionPipeline.from_pretrained(out, low_cpu_mem_usage=False)
    assert isinstance(pipeline, StableDiffusionPipeline)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    found = pipeline.unet.state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    for folder in ("vae", "text_encoder", "tokenizer", "scheduler"):
        for path in (base / folder).iterdir():
            assert (out / folder / path.name).read_bytes() == path.read_bytes()


def test_lora_weights_alone_are_stored_and_turn_the_base_into_what_was_trained(tmp_path: Path) -> None:
    base, out = tiny.stable_diffusion(tmp_path / "base"), tmp_path / "out"
    made = models(base=str(base), lora_rank=2)
    shake(made.denoiser)
    z, states = torch.randn(1, 4, 4, 4), torch.randn(1, tiny.TOKENS, 8)
    with torch.no_grad():
        expected = made.denoiser(z, 7, states).sample
    out.mkdir()
    save_target(out, made, half=False, record={})
    assert sorted(path.name for path in out.iterdir()) == ["pytorch_lora_weights.safetensors", "training.json"]
    assert all(".lora" in name for name in load_file(out / "pytorch_lora_weights.safetensors"))
    # Two components that an audit's target does not have.
    missing = {"safety_checker": None, "feature_extractor": None}
    index = {"_class_name": "StableDiffusionPipeline"}
    finished = tmp_path / "whole"
    finished.mkdir()
    save_target(finished, models(base=str(base)), half=False, record=index)
    pipeline = StableDiffusionPipeline.from_pretrained(finished, low_cpu_mem_usage=False, **missing)
    with torch.no_grad():
        plain = pipeline.unet(z, 7, states).sample
        pipeline.load_lora_weights(out)
        found = pipeline.unet(z, 7, states).sample
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(plain, expected, atol=1e-4)
