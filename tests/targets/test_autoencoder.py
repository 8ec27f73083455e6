"""The VQ autoencoder against diffusers' own; the KL one is tested with the unconditional target."""

from pathlib import Path

import pytest
import torch
from diffusers import VQModel

from ldm_scale.geometry.pullback import pullback_metric
from ldm_scale.targets.base import Target
from ldm_scale.targets.load import load_target
from tests.targets import tiny

SCALE = 0.8  # of the tiny VQ target


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.vq_ldm(tmp_path_factory.mktemp("vq"))


@pytest.fixture
def target(folder: Path) -> Target:
    return load_target(str(folder), "cpu")


@pytest.fixture
def model(folder: Path) -> VQModel:
    return VQModel.from_pretrained(folder / "vqvae", low_cpu_mem_usage=False).eval()


def test_the_latent_is_what_the_codebook_would_be_given(target: Target, model: VQModel) -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = model.quant_conv(model.encoder(images)) * SCALE
        for noise in (None, torch.ones(3, 4, 4, 4)):
            torch.testing.assert_close(target.encode(images, noise), expected)
        assert torch.equal(target.encode(images, torch.ones(2, 3, 4, 4, 4))[1], target.encode(images, None))


def test_decode_leaves_the_codebook_out(target: Target, model: VQModel) -> None:
    z = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model.decoder(model.post_quant_conv(z / SCALE))
        quantised = model.decode(z / SCALE).sample
        found = target.decode(z)
    torch.testing.assert_close(found, expected)
    assert (found - quantised).abs().max() > 1e-3


def test_the_decoder_has_a_metric(target: Target) -> None:
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    assert (pullback_metric(target.decode, z, 1 << 28)[0].diagonal() > 0).all()
