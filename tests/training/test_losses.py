"""The two losses against their definitions."""

from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler

from ldm_scale.config.train import StageConfig
from ldm_scale.training.losses import AutoencoderLoss, DenoiserLoss
from ldm_scale.training.models import Models
from ldm_scale.training.optimiser import Optimiser
from tests.targets import tiny
from tests.training.cases import as_latents, batch, models


def test_autoencoder_loss_is_l1_plus_weighted_kl() -> None:
    autoencoder, x = models().autoencoder, batch().inputs
    torch.manual_seed(1)
    found = AutoencoderLoss(autoencoder, kl_weight=0.5)(batch())
    torch.manual_seed(1)
    posterior = autoencoder.encode(x).latent_dist
    z = posterior.sample()
    mean, variance = posterior.mean, posterior.var
    kl = 0.5 * (mean**2 + variance - 1 - variance.log())
    expected = (autoencoder.decode(z).sample - x).abs().mean() + 0.5 * kl.mean()
    torch.testing.assert_close(found, expected)


def loss_of(made: Models) -> DenoiserLoss:
    return DenoiserLoss(made.denoiser, made.schedule, made.condition)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("betas", [(1e-4, 0.02), (1.5e-3, 1.95e-2)])
def test_denoiser_loss_is_the_error_of_the_prediction(
    prediction_type: str, classes: bool, betas: tuple[float, float]
) -> None:
    made = models(denoiser={"classes": classes, "betas": betas})
    x = as_latents(made, batch())
    schedule = DDPMScheduler.from_config(made.schedule.config, prediction_type=prediction_type)
    torch.manual_seed(1)
    found = DenoiserLoss(made.denoiser, schedule, made.condition)(x)
    torch.manual_seed(1)
    z = x.inputs
    noise = torch.randn_like(z)
    steps = torch.randint(1000, (4,))
    abar = torch.cumprod(1 - torch.linspace(*betas, 1000), 0)[steps].reshape(4, 1, 1, 1)
    told = {"class_labels": torch.tensor([0, 1, 0, 1])} if classes else {}
    predicted = made.denoiser(abar.sqrt() * z + (1 - abar).sqrt() * noise, steps, **told).sample
    velocity = abar.sqrt() * noise - (1 - abar).sqrt() * z
    wanted = noise if prediction_type == "epsilon" else velocity
    torch.testing.assert_close(found, ((predicted - wanted) ** 2).mean())


def test_a_base_that_predicts_v_is_trained_to_predict_v(tmp_path: Path) -> None:
    base = tiny.stable_diffusion(tmp_path, "v_prediction")
    made = models(base=str(base))
    x = as_latents(made, batch())
    torch.manual_seed(1)
    found = loss_of(made)(x)
    torch.manual_seed(1)
    z = x.inputs
    noise, steps = torch.randn_like(z), torch.randint(1000, (4,))
    states = made.condition(x)["encoder_hidden_states"]
    predicted = made.denoiser(made.schedule.add_noise(z, noise, steps), steps, states).sample
    expected = ((predicted - made.schedule.get_velocity(z, noise, steps)) ** 2).mean()
    torch.testing.assert_close(found, expected)


def test_only_the_denoiser_learns_in_its_stage() -> None:
    made = models()
    loss = loss_of(made)
    before = [parameter.clone() for parameter in made.autoencoder.parameters()]
    optimiser = Optimiser(made.denoiser, loss, 3, StageConfig(rate=1e-2))
    for _ in range(3):
        optimiser.step([as_latents(made, batch())])
    assert {id(p) for p in loss.parameters()} == {id(p) for p in made.denoiser.parameters()}
    assert all(torch.equal(a, b) for a, b in zip(before, made.autoencoder.parameters(), strict=True))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", ["autoencoder", "denoiser"])
def test_both_losses_fall(stage: str, precision: str) -> None:
    made, x = models(), batch()
    if stage == "denoiser":
        x = as_latents(made, x)
    loss = AutoencoderLoss(made.autoencoder, 1e-3) if stage == "autoencoder" else loss_of(made)
    optimiser = Optimiser(getattr(made, stage), loss, 60, StageConfig(rate=3e-3), precision)
    values = [optimiser.step([x]).item() for _ in range(60)]
    assert sum(values[-10:]) < 0.85 * sum(values[:10])
