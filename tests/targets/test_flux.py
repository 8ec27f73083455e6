"""The FLUX target against diffusers' pipeline and its transformer called directly."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from ldm_scale.targets.load import load_target
from tests.targets import tiny

CAPTIONS = ["A cat", None, "do cats dog " * 5]
PROMPTS = [caption or "" for caption in CAPTIONS]
Embeddings = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module", params=[True, False], ids=["dev", "schnell"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.flux(tmp_path_factory.mktemp("flux"), request.param)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> FluxPipeline:
    return FluxPipeline.from_pretrained(folder, low_cpu_mem_usage=False)


@pytest.fixture(scope="module")
def embeddings(pipeline: FluxPipeline) -> Embeddings:
    with torch.no_grad():
        return pipeline.encode_prompt(PROMPTS)


def test_captions_are_the_pipelines_embeddings(folder: Path, embeddings: Embeddings) -> None:
    text, pooled = load_target(str(folder), "cpu").condition(CAPTIONS, [None] * 3)
    torch.testing.assert_close((text, pooled), embeddings[:2])
    assert (text.shape, pooled.shape) == ((3, 512, 24), (3, 8))


@pytest.mark.parametrize("t", [0, 300])
@pytest.mark.parametrize("side", [4, 6])
def test_noise_is_that_of_the_transformers_own_velocity(
    folder: Path, pipeline: FluxPipeline, embeddings: Embeddings, side: int, t: int
) -> None:
    """The sampler's sigmas for the image's length, latents packed, guidance 1 if the model has one."""
    z = torch.randn(3, 4, side, side, generator=torch.Generator().manual_seed(0))
    evenly = np.linspace(1, 1 / 1000, 1000)
    pipeline.scheduler.set_timesteps(sigmas=evenly, mu=calculate_shift((side // 2) ** 2))
    sigma, time = pipeline.scheduler.sigmas[999 - t], pipeline.scheduler.timesteps[999 - t]
    scaled = z * ((1 - sigma) ** 2 + sigma**2).sqrt()
    packed = pipeline._pack_latents(scaled, 3, 4, side, side)
    text, pooled, text_ids = embeddings
    target = load_target(str(folder), "cpu", side * 4)
    with torch.no_grad():
        velocity = pipeline.transformer(
            packed,
            encoder_hidden_states=text,
            pooled_projections=pooled,
            timestep=time.expand(3) / 1000,
            img_ids=pipeline._prepare_latent_image_ids(3, side // 2, side // 2, "cpu", torch.float32),
            txt_ids=text_ids,
            guidance=torch.ones(3) if pipeline.transformer.config.guidance_embeds else None,
        ).sample
        found = target.predict_noise(z, tiny.at(t, z), target.condition(CAPTIONS, [None] * 3))
    velocity = pipeline._unpack_latents(velocity, side * 4, side * 4, 4)
    torch.testing.assert_close(found, scaled + (1 - sigma) * velocity, rtol=1e-4, atol=1e-5)


def test_encode_and_decode_shift_and_scale(folder: Path, pipeline: FluxPipeline) -> None:
    target = load_target(str(folder), "cpu")
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mode = pipeline.vae.encode(images).latent_dist.mode()
        torch.testing.assert_close(target.encode(images, None), (mode - 0.06) * 1.3)
        torch.testing.assert_close(target.decode((mode - 0.06) * 1.3), pipeline.vae.decode(mode).sample)
