"""The SDXL target against diffusers' pipeline and its U-Net called directly."""

from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

from ldm_scale.targets.base import Target
from ldm_scale.targets.load import load_target
from tests.targets import tiny

CAPTIONS = ["A cat", None, "do cats dog " * 5]
PROMPTS = [caption or "" for caption in CAPTIONS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.stable_diffusion_xl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline.from_pretrained(folder, low_cpu_mem_usage=False)


def latents(side: int = 4) -> torch.Tensor:
    return torch.randn(3, 4, side, side, generator=torch.Generator().manual_seed(0))


def embeddings(pipeline: StableDiffusionXLPipeline) -> tuple[torch.Tensor, torch.Tensor]:
    text, _, pooled, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    return text, pooled


def predict(target: Target, t: int) -> torch.Tensor:
    with torch.no_grad():
        z = latents(target.latent_shape[1])
        return target.predict_noise(z, tiny.at(t, z), target.condition(CAPTIONS, [None] * 3))


def test_captions_are_the_pipelines_embeddings(folder: Path, pipeline: StableDiffusionXLPipeline) -> None:
    text, pooled = load_target(str(folder), "cpu").condition(CAPTIONS, [None] * 3)
    with torch.no_grad():
        torch.testing.assert_close((text, pooled), embeddings(pipeline))
    assert (text.shape, pooled.shape) == ((3, tiny.TOKENS, 20), (3, 6))


@pytest.mark.parametrize(("size", "side"), [(None, 16), (24, 24)])
def test_noise_is_the_unets_own_for_the_targets_size(
    folder: Path, pipeline: StableDiffusionXLPipeline, size: int | None, side: int
) -> None:
    with torch.no_grad():
        text, pooled = embeddings(pipeline)
        sizes = pipeline._get_add_time_ids((side, side), (0, 0), (side, side), text.dtype, 6)
        expected = pipeline.unet(
            latents(side // 4),
            torch.tensor(70),
            encoder_hidden_states=text,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes.repeat(3, 1)},
        ).sample
    target = load_target(str(folder), "cpu", size)
    assert target.image_size == side
    torch.testing.assert_close(predict(target, 70), expected)
    if size is not None:
        other = sizes.repeat(3, 1) - side + 16
        with torch.no_grad():
            added = {"text_embeds": pooled, "time_ids": other}
            differs = pipeline.unet(latents(6), 70, encoder_hidden_states=text, added_cond_kwargs=added).sample
        assert (differs - expected).abs().max() > 1e-5


def test_the_schedule_is_the_pipelines(folder: Path, pipeline: StableDiffusionXLPipeline) -> None:
    assert isinstance(pipeline.scheduler, EulerDiscreteScheduler)
    torch.testing.assert_close(load_target(str(folder), "cpu").alphas_cumprod, pipeline.scheduler.alphas_cumprod)
