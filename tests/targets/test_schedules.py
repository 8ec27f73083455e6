"""Schedules: flow matching's own sampler and closed forms, and networks whose answer is known."""

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from ldm_scale.targets.schedules import FlowSchedule, NoiseSchedule, dynamic_shift, make_schedule
from tests.targets.tiny import at

TOKENS = 1024
CPU = torch.device("cpu")
EVENLY = torch.arange(1, 1001, dtype=torch.float64) / 1000
SHIFTS = {"none": {}, "static": {"shift": 3.0}, "dynamic": {"use_dynamic_shifting": True, "shift": 3.0}}


def make(shift: str, tokens: int = TOKENS) -> FlowSchedule:
    return FlowSchedule(FlowMatchEulerDiscreteScheduler(**SHIFTS[shift]), tokens, CPU)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tokens", [4, 256, 1024, 4096, 9000])
@pytest.mark.parametrize("lengths", [{}, {"base_image_seq_len": 100, "max_shift": 2.0}])
def test_the_dynamic_shift_is_the_pipelines(tokens: int, lengths: dict[str, float]) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(**lengths)
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    expected = calculate_shift(tokens, *(scheduler.config[name] for name in names))
    assert dynamic_shift(tokens, scheduler) == pytest.approx(expected)


@pytest.mark.parametrize("shift", SHIFTS)
def test_sigmas_are_the_shifted_even_ones(shift: str) -> None:
    """a s / (1 + (a - 1) s), with a = 1, the static shift, or exp(mu) (Esser et al. 2024, eq. 23)."""
    mu = calculate_shift(TOKENS)
    factor = {"none": 1.0, "static": 3.0, "dynamic": torch.tensor(mu, dtype=torch.float64).exp().item()}[shift]
    expected = factor * EVENLY / (1 + (factor - 1) * EVENLY)
    torch.testing.assert_close(make(shift).sigmas, expected, rtol=1e-6, atol=1e-7)


def test_only_a_dynamic_shift_follows_the_images_size() -> None:
    assert torch.equal(make("static", 256).sigmas, make("static", 4096).sigmas)
    assert (make("dynamic", 256).sigmas < make("dynamic", 4096).sigmas)[:-1].all()


@pytest.mark.parametrize("shift", SHIFTS)
def test_abar_falls_from_one_to_nothing(shift: str) -> None:
    abar = make(shift).alphas_cumprod
    assert abar.dtype == torch.float64
    assert (abar.diff() < 0).all()
    assert 0.9999 < abar[0] < 1
    assert abar[-1] == 0


@pytest.mark.parametrize("t", [0, 10, 500, 990])
@pytest.mark.parametrize("shift", ["none", "static"])
def test_the_network_sees_what_the_sampler_makes_of_latent_and_noise(shift: str, t: int) -> None:
    """An attack's sqrt(abar) z + sqrt(1 - abar) e becomes scale_noise's (1 - sigma) z + sigma e at its timestep."""
    z, e = draw(2, 3, 4, 4, 4)
    scheduler = FlowMatchEulerDiscreteScheduler(**SHIFTS[shift])
    time = scheduler.timesteps[999 - t]
    expected = scheduler.scale_noise(z, time.expand(3), e)
    schedule, seen = make(shift), []

    def network(x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        seen.append((x, told))
        return x

    abar = schedule.alphas_cumprod[t].item()
    schedule.predict_noise(network, abar**0.5 * z + (1 - abar) ** 0.5 * e, at(t, z))
    ((x, told),) = seen
    torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(told, time.expand(3), rtol=1e-5, atol=0)


@pytest.mark.parametrize("t", [0, 10, 500, 990])
@pytest.mark.parametrize("shift", SHIFTS)
def test_an_exact_network_gives_back_the_noise(shift: str, t: int) -> None:
    """Of latents that are all one z, v = (x - z) / sigma is exact."""
    z, e = draw(2, 3, 4, 4, 4).double()
    schedule = make(shift)
    abar = schedule.alphas_cumprod[t].item()

    def network(x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        return (x - z) / (told[0] / 1000)

    found = schedule.predict_noise(network, abar**0.5 * z + (1 - abar) ** 0.5 * e, at(t, z))
    torch.testing.assert_close(found, e, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("t", [0, 200, 990])
@pytest.mark.parametrize("shift", SHIFTS)
def test_the_noise_of_gaussian_latents_is_that_of_diffusion(shift: str, t: int) -> None:
    """z ~ N(m, s^2): E[e | x_t] = sqrt(1 - abar) (x_t - sqrt(abar) m) / (abar s^2 + 1 - abar), x_t a linear mix."""
    mean, variance = 0.7, 0.3
    x = draw(2, 4, 4, 4).double()
    schedule = make(shift)
    abar = schedule.alphas_cumprod[t].item()

    def network(seen: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """E[e - z | x_sigma] by the covariance of e - z with x_sigma."""
        sigma = told[0] / 1000
        total = (1 - sigma) ** 2 * variance + sigma**2
        return -mean + (sigma - (1 - sigma) * variance) / total * (seen - (1 - sigma) * mean)

    expected = (1 - abar) ** 0.5 * (x - abar**0.5 * mean) / (abar * variance + 1 - abar)
    torch.testing.assert_close(schedule.predict_noise(network, x, at(t, x)), expected, rtol=1e-6, atol=1e-8)


def test_the_samplers_class_decides() -> None:
    assert isinstance(make_schedule(FlowMatchEulerDiscreteScheduler(), TOKENS, CPU), FlowSchedule)
    schedule = make_schedule(DDPMScheduler(prediction_type="v_prediction"), TOKENS, CPU)
    assert isinstance(schedule, NoiseSchedule)
    x = draw(1, 4, 4, 4)
    abar = DDPMScheduler().alphas_cumprod[70]
    expected = abar.sqrt() * (70 * x) + (1 - abar).sqrt() * x
    torch.testing.assert_close(schedule.predict_noise(lambda seen, told: seen * told, x, at(70, x)), expected)
