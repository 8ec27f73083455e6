"""The SD3 target against diffusers' pipeline and its transformer called directly."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from ldm_scale.errors import UsageError
from ldm_scale.targets.load import load_target
from tests.targets import tiny

CAPTIONS = ["A cat", None, "do cats dog " * 5]
PROMPTS = [caption or "" for caption in CAPTIONS]


@pytest.fixture(scope="module", params=[True, False], ids=["with T5", "without T5"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.stable_diffusion_3(tmp_path_factory.mktemp("sd3"), request.param)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> StableDiffusion3Pipeline:
    absent = {} if (folder / "text_encoder_3").is_dir() else {"text_encoder_3": None, "tokenizer_3": None}
    return StableDiffusion3Pipeline.from_pretrained(folder, low_cpu_mem_usage=False, **absent)


def latents() -> torch.Tensor:
    return torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))


def embeddings(pipeline: StableDiffusion3Pipeline) -> tuple[torch.Tensor, torch.Tensor]:
    text, _, pooled, _ = pipeline.encode_prompt(PROMPTS, None, None, do_classifier_free_guidance=False)
    return text, pooled


def test_captions_are_the_pipelines_embeddings(folder: Path, pipeline: StableDiffusion3Pipeline) -> None:
    text, pooled = load_target(str(folder), "cpu").condition(CAPTIONS, [None] * 3)
    with torch.no_grad():
        torch.testing.assert_close((text, pooled), embeddings(pipeline))
    assert (text.shape, pooled.shape) == ((3, tiny.TOKENS + 256, 24), (3, 10))
    assert bool((text[:, tiny.TOKENS :] == 0).all()) == (pipeline.text_encoder_3 is None)


@pytest.mark.parametrize("t", [0, 300])
def test_noise_is_that_of_the_transformers_own_velocity(
    folder: Path, pipeline: StableDiffusion3Pipeline, t: int
) -> None:
    """eps = x_sigma + (1 - sigma) v at the sampler's own sigma and timestep, x_sigma the rescaled input."""
    sigma, time = pipeline.scheduler.sigmas[999 - t], pipeline.scheduler.timesteps[999 - t]
    scaled = latents() * ((1 - sigma) ** 2 + sigma**2).sqrt()
    target = load_target(str(folder), "cpu")
    with torch.no_grad():
        text, pooled = embeddings(pipeline)
        velocity = pipeline.transformer(scaled, text, pooled, time.expand(3)).sample
        found = target.predict_noise(latents(), tiny.at(t, latents()), target.condition(CAPTIONS, [None] * 3))
    torch.testing.assert_close(found, scaled + (1 - sigma) * velocity)


def test_an_image_of_more_patches_than_positions_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"images\.size = 56: .* multiples of 8 px up to 48 px"):
        load_target(str(folder), "cpu", 56)
    assert load_target(str(folder), "cpu", 48).latent_shape == (4, 12, 12)


def test_encode_and_decode_shift_and_scale(folder: Path, pipeline: StableDiffusion3Pipeline) -> None:
    target = load_target(str(folder), "cpu")
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mode = pipeline.vae.encode(images).latent_dist.mode()
        torch.testing.assert_close(target.encode(images, None), (mode - 0.06) * 1.3)
        torch.testing.assert_close(target.decode((mode - 0.06) * 1.3), pipeline.vae.decode(mode).sample)
