"""A target's trial tells what direct calls tell, and says what is not finite."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ldm_scale.device.draws import keyed_normal
from ldm_scale.targets.trial import try_target


class Pooled:
    """Latents are means of 4 x 4 pixels, three times as large; the denoiser predicts a tenth of what it sees."""

    image_size = 16
    latent_shape = (3, 4, 4)
    alphas_cumprod = torch.linspace(0.9, 0.1, 10)

    def weights(self) -> Iterator[Tensor]:
        return iter(())

    def encode(self, images: Tensor, noise: Tensor | None) -> Tensor:
        return 3 * torch.nn.functional.avg_pool2d(images, 4)

    def decode(self, z: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(z / 3, scale_factor=4)

    def refusal(self, caption: str | None, label: int | None) -> str | None:
        return None if caption else "no caption"

    def condition(self, captions: Sequence[str | None], labels: Sequence[int | None]) -> None:
        assert None not in captions

    def predict_noise(self, z: Tensor, t: int, condition: None) -> Tensor:
        return z / 10


def pictures(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 3, 16, 16), dtype=np.uint8))


def test_the_numbers_are_those_of_direct_calls() -> None:
    images = pictures(3)
    trial = try_target(Pooled(), images, ["a", None, "c"], [None] * 3, seed=5)
    assert trial.problems == ()
    assert trial.facts[0] == "Pooled: 16 px images, 3 x 4 x 4 latents (48 dimensions), 10 timesteps"
    x = np.stack([images[0], images[2]]) / 127.5 - 1
    z = 3 * x.reshape(2, 3, 4, 4, 4, 4).mean((3, 5))
    error = np.abs(np.kron(z / 3, np.ones((4, 4))) - x).mean()
    noise = keyed_normal(5, ["0", "2"], "trial", (3, 4, 4), torch.device("cpu")).numpy()
    abar = np.linspace(0.9, 0.1, 10)[5]
    squared = (((abar**0.5 * z + (1 - abar) ** 0.5 * noise) / 10 - noise) ** 2).mean()
    assert f"mean error of reconstruction {error:.3f} of 2" in trial.facts[1]
    assert f"standard deviation of the scaled latents {z.std(ddof=1):.2f}" in trial.facts[1]
    assert f"predicted noise at t = 5 {squared:.3f}" in trial.facts[1]
    assert trial.facts[1].startswith("  2 images: ")
    assert len(trial.facts) == 2


def test_a_denoiser_that_says_nothing_is_warned_of() -> None:
    class Silent(Pooled):
        def predict_noise(self, z: Tensor, t: int, condition: None) -> Tensor:
            return 0 * z

    trial = try_target(Silent(), pictures(8), ["a"] * 8, [None] * 8, seed=0)
    assert trial.facts[2].startswith("  warning: ")
    assert trial.problems == ()


def test_samples_that_are_refused_are_counted_by_reason() -> None:
    trial = try_target(Pooled(), [], [], [], seed=0)
    assert trial.facts == ("Pooled: 16 px images, 3 x 4 x 4 latents (48 dimensions), 10 timesteps",)
    assert trial.refused({(True, None): 3, (False, 1): 2, (False, 2): 4}) == {"no caption": 6}


def test_numbers_that_are_not_finite_are_a_problem() -> None:
    class Broken(Pooled):
        def decode(self, z: Tensor) -> Tensor:
            return super().decode(z) / 0

    assert try_target(Broken(), pictures(1), ["a"], [None], seed=0).problems == (
        "Broken gives numbers that are not finite",
    )
