"""A few images scored in this process."""

from pathlib import Path

import numpy as np
import pytest
from diffusers import DDPMScheduler, LDMPipeline

from ldm_scale import UsageError, score
from ldm_scale.auditor import Auditor
from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.base import build
from ldm_scale.config.data import ImageConfig
from ldm_scale.data.images import preprocess
from ldm_scale.targets.load import load_target
from tests.conftest import make_image

NAMES = ["shard/000", "shard/001", "shard/002"]
IMAGES = [make_image(number) for number in range(3)]
ATTACK = {"sima": {"timesteps": [0, 50]}}


def audited(target: Path, **changes: object) -> np.ndarray:
    """The spectra that an audit writes."""
    values = {"out": "o", "shards": "s", "target": "t", "attacks": ATTACK, "seed": 3} | changes
    pixels = np.stack([preprocess(image, ImageConfig(), 16) for image in IMAGES])
    auditor = Auditor(load_target(str(target), "cpu"), build(AuditConfig, values))
    return auditor.audit(pixels, NAMES, [["" ]] * 3, [None] * 3).spectra["sima"]  # fmt: skip


def test_scores_are_those_of_an_audit(tiny_target: Path) -> None:
    geometry = {"influence": "hutchinson", "probes": 2, "distortion": "off"}
    spectra = audited(tiny_target, geometry=geometry, latent="sample")
    found = score(
        str(tiny_target), IMAGES, ATTACK, mask=0.4, names=NAMES, seed=3, latent="sample", geometry={"probes": 2}
    )
    assert list(found.name) == [name for name in NAMES for _ in range(2)]
    assert list(found.timestep) == [0, 50] * 3
    np.testing.assert_allclose(found.score, -spectra[:, :, 8:].sum(2).ravel(), rtol=1e-5)


def test_without_a_mask_all_dimensions_count_and_a_pipeline_is_a_target(tiny_target: Path) -> None:
    spectra = audited(tiny_target, geometry={"probes": 1, "distortion": "off"})
    loaded = load_target(str(tiny_target), "cpu")
    pipeline = LDMPipeline.from_pretrained(tiny_target)
    assert isinstance(pipeline.scheduler, DDPMScheduler)
    for target in (loaded, pipeline):
        found = score(target, IMAGES, ATTACK, names=NAMES, seed=3)
        np.testing.assert_allclose(found.score, -spectra.sum(2).ravel(), rtol=1e-5)


def test_an_image_may_be_a_file(tiny_target: Path, tmp_path: Path) -> None:
    IMAGES[0].save(tmp_path / "a.png")
    found = score(str(tiny_target), [tmp_path / "a.png", IMAGES[0]], ATTACK, names=["a", "b"])
    np.testing.assert_allclose(found.score[:2], found.score[2:], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": []}, "for 0 images"),
        ({"captions": ["a"]}, "captions: 1 for 3 images"),
        ({"attack": "simaa"}, "did you mean 'sima'"),
        ({"attack": {"sima": {"timesteps": [1000]}}}, "attacks.sima.timesteps: 1000"),
        ({"mask": 0.41}, "0.41 is not a multiple"),
        ({"mask": 1.0}, "below 1"),
        ({"mask": 0.4, "geometry": {"influence": "pooled"}}, "needs a calibration set"),
        ({"images": ["gone.png"] * 3}, "image 0: .*gone.png"),
        ({"colour": 1}, "colour: no such option"),
        ({"target": 7}, "a int is no target"),
    ],
)
def test_wrong_arguments_are_named(tiny_target: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        score(**({"target": str(tiny_target), "images": IMAGES, "attack": "sima"} | changes))  # type: ignore[arg-type]
