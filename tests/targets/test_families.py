"""Families of targets that other packages install."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from ldm_scale.cli import main
from ldm_scale.errors import UsageError
from ldm_scale.targets.load import load_target, target_digest
from tests.targets import tiny

THIRD_PARTY = """
from diffusers import UNet2DModel

from ldm_scale.targets.families import Family
from ldm_scale.targets.latent_diffusion import LatentDiffusion


class TwiceUNet(UNet2DModel):
    pass


class TwiceTarget(LatentDiffusion):
    def condition(self, captions, labels):
        return None

    def _denoise(self, z, steps, condition):
        return 2 * self._denoiser(z, steps).sample


FAMILY = Family(TwiceUNet, TwiceTarget)
BROKEN = "no family"
"""


def install(folder: Path, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution of someone else's, with one family of targets."""
    info = folder / "twice-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: twice\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ldm_scale.families]\nTwiceUNet = {value}\n")
    (folder / "someones_family.py").write_text(THIRD_PARTY)
    monkeypatch.syspath_prepend(folder)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path]:
    """A tiny unconditional target, and the same weights under the name of the third party's class."""
    plain = tiny.vq_ldm(tmp_path / "plain")
    twice = shutil.copytree(plain, tmp_path / "twice")
    path = twice / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "TwiceUNet"}))
    return plain, twice


def test_a_third_partys_family_is_loaded_by_the_name_of_its_denoiser(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, twice = made
    with pytest.raises(UsageError, match="is a TwiceUNet"):
        load_target(twice, "cpu")
    install(tmp_path / "site", "someones_family:FAMILY", monkeypatch)
    found, known = load_target(twice, "cpu"), load_target(plain, "cpu")
    z, t = torch.ones(1, *known.latent_shape), torch.tensor([3])
    assert torch.equal(found.predict_noise(z, t, None), 2 * known.predict_noise(z, t, None))
    assert target_digest(twice) != target_digest(plain)
    assert main(["list", "families"]) == 0
    assert "twice 1.0" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["someones_family:BROKEN", "someones_family:NONE", "no_such_module:FAMILY"])
def test_an_entry_point_that_is_no_family_is_named(
    made: tuple[Path, Path], value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", value, monkeypatch)
    with pytest.raises(UsageError, match=rf"^entry point TwiceUNet of ldm_scale\.families \(twice 1\.0\).*{value}"):
        load_target(made[1], "cpu")
