"""The paper's autoencoder: how large it is, what its latents are, and its geometry. Its numbers: tests of convert."""

from pathlib import Path

import pytest
import torch

from ldm_scale.geometry.pullback import pullback_metric
from ldm_scale.targets.load import load_target
from ldm_scale.targets.strided import StridedAutoencoder
from tests.targets import tiny


def test_it_has_the_papers_weights() -> None:
    with torch.device("meta"):
        model = StridedAutoencoder()
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(4.79e6, rel=0.002)
    assert model.encode(torch.empty(1, 3, 32, 32, device="meta")).latent_dist.mean.shape == (1, 4, 8, 8)


@pytest.mark.parametrize(("widths", "side"), [((4,), 16), ((4, 8), 8), ((4, 4, 8, 8), 2)])
def test_each_width_after_the_first_halves_it(widths: tuple[int, ...], side: int) -> None:
    model = StridedAutoencoder(latent_channels=3, block_out_channels=widths, layers_per_block=2)
    latent = model.encode(torch.zeros(2, 3, 16, 16)).latent_dist.mode()
    assert latent.shape == (2, 3, side, side)
    assert model.decode(latent).sample.shape == (2, 3, 16, 16)


def test_latents_are_not_scaled_and_the_decoder_has_a_metric(tmp_path: Path) -> None:
    target = load_target(tiny.strided(tmp_path), "cpu")
    model = StridedAutoencoder.from_pretrained(tmp_path / "vqvae", low_cpu_mem_usage=False).eval()
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        posterior = model.encode(images).latent_dist
        torch.testing.assert_close(target.encode(images, None), posterior.mean)
        torch.testing.assert_close(target.encode(images, torch.ones(3, 4, 4, 4)), posterior.mean + posterior.std)
        torch.testing.assert_close(target.decode(posterior.mean), model.decode(posterior.mean).sample)
    assert (pullback_metric(target.decode, posterior.mean[:1], 1 << 28)[0].diagonal() > 0).all()
