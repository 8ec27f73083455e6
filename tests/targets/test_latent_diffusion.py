"""What every family's target must offer: shapes, a schedule, float32, rows of a batch that do not touch."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm_scale.errors import UsageError
from ldm_scale.targets.base import Target
from ldm_scale.targets.load import load_target
from tests.targets import tiny
from tests.targets.families import CAPTIONS, FAMILIES, LABELS


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda make: make.__name__)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Callable, Path]:
    return request.param, request.param(tmp_path_factory.mktemp("family"))


@pytest.fixture
def target(made: tuple[Callable, Path]) -> Target:
    return load_target(str(made[1]), "cpu")


def test_it_is_a_target_of_these_shapes(target: Target) -> None:
    assert isinstance(target, Target)
    assert (target.image_size, target.latent_shape) == (16, (4, 4, 4))
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        z = target.encode(images, torch.zeros(2, 4, 4, 4))
        torch.testing.assert_close(z, target.encode(images, None))
        assert target.decode(z).shape == images.shape


def test_the_schedule_is_its_own_samplers(made: tuple[Callable, Path], target: Target) -> None:
    sampler = FAMILIES[made[0]]
    if sampler is None:
        pytest.skip("flow matching has a test of its own")
    expected = sampler.from_pretrained(made[1] / "scheduler").alphas_cumprod
    torch.testing.assert_close(target.alphas_cumprod, expected, rtol=0, atol=0)


def test_a_sample_does_not_depend_on_its_batch(target: Target) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 4, 4, 4, generator=generator)
    images = torch.rand(3, 3, 16, 16, generator=generator) * 2 - 1
    with torch.no_grad():
        whole = target.predict_noise(z, tiny.at(30, z), target.condition(CAPTIONS, LABELS))
        encoded, decoded = target.encode(images, None), target.decode(z)
        for n in range(3):
            one = slice(n, n + 1)
            alone = target.predict_noise(z[one], tiny.at(30, z[one]), target.condition(CAPTIONS[one], LABELS[one]))
            torch.testing.assert_close(alone, whole[one], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(target.encode(images[one], None), encoded[one], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(target.decode(z[one]), decoded[one], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [24, 32])
def test_another_size_than_its_own(made: tuple[Callable, Path], size: int) -> None:
    target = load_target(str(made[1]), "cpu", size)
    side = size // 4
    assert (target.image_size, target.latent_shape) == (size, (4, side, side))
    images = torch.rand(2, 3, size, size) * 2 - 1
    with torch.no_grad():
        z = target.encode(images, None)
        noise = target.predict_noise(z, tiny.at(30, z), target.condition(CAPTIONS[:2], LABELS[:2]))
        assert target.decode(z).shape == images.shape
    assert z.shape == noise.shape == (2, 4, side, side)


@pytest.mark.parametrize("size", [4, 18, 20])
def test_a_size_it_cannot_take_is_named(made: tuple[Callable, Path], size: int) -> None:
    with pytest.raises(UsageError, match=rf"images.size = {size}: the target takes 16 px and multiples of 8 px"):
        load_target(str(made[1]), "cpu", size)


def test_half_precision_files_are_computed_in_single(made: tuple[Callable, Path], tmp_path: Path) -> None:
    folder = made[0](tmp_path / "half")
    for path in list(folder.rglob("*.safetensors")):
        halved = {name: weight.half() for name, weight in load_file(path).items()}
        save_file(halved, path, metadata={"format": "pt"})
    target = load_target(str(folder), "cpu")
    with torch.no_grad():
        z = target.encode(torch.zeros(1, 3, 16, 16), None)
        noise = target.predict_noise(z, tiny.at(10, z), target.condition(["a cat"], [0]))
    assert z.dtype == noise.dtype == target.decode(z).dtype == torch.float32
