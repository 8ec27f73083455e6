"""Rows of a device against the CPU's: every attack, estimator, mask, family of models and precision."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldm_scale.auditor import AuditedBatch, Auditor
from ldm_scale.geometry.stability import mask_overlap
from ldm_scale.targets.execution import Execution
from ldm_scale.targets.load import load_target
from tests.gpu import cases
from tests.gpu.cases import ATTACKS, FLOAT32, TARGET, Tolerance
from tests.targets import tiny

GEOMETRIES: dict[str, dict[str, Any]] = {
    "exact influence": {"influence": "exact", "distortion": "off"},
    "hutchinson influence": {"influence": "hutchinson", "probes": 4, "distortion": "off"},
    "pooled influence": {"influence": "pooled", "probes": 2, "distortion": "off"},
    "exact distortion": {"probes": 2, "distortion": "exact"},
    "truncated distortion": {"probes": 2, "distortion": "truncated"},
    "slq distortion": {"probes": 2, "distortion": "slq"},
}
FAMILIES = (
    *(
        tiny.vq_ldm,
        tiny.unconditional,
        tiny.strided,
        tiny.class_unet,
        tiny.class_conditional_unet,
        tiny.class_token,
        tiny.dit,
    ),
    *(tiny.stable_diffusion, tiny.stable_diffusion_xl, tiny.stable_diffusion_3, tiny.flux),
)
# One on the CPU, to prove the check.
PLACES = [("cpu", tiny.stable_diffusion), *(pytest.param("cuda", make, marks=pytest.mark.gpu) for make in FAMILIES)]
# Of spectra: sums of fourth powers of what is rounded to 8 bits, or to 11.
PRECISIONS = {"bfloat16": 0.08, "float16": 0.02, "tf32": 0.02}
# Of influences, in nats, from products that are rounded likewise.
PRODUCTS = {"bfloat16": 0.3, "tf32": 0.05}


@cache
def rows(device: torch.device) -> tuple[AuditedBatch, AuditedBatch]:
    """The demo's rows of all attacks under all masks, on a device and on the CPU."""
    config = cases.make_config()
    return cases.rows_of(TARGET, device, config), cases.reference(TARGET, config)


@cache
def plain_reference() -> AuditedBatch:
    """The CPU's rows of the demo under SimA."""
    return cases.reference(TARGET, cases.make_config(attacks={"sima": {"timesteps": [0, 100]}}))


def only(batch: AuditedBatch, attack: str) -> AuditedBatch:
    """A batch with the spectra of one attack."""
    spectra = {attack + mask: batch.spectra[attack + mask] for mask in ("", "_random", "_global")}
    return AuditedBatch(**{**vars(batch), "spectra": spectra})


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_under_every_mask(device: torch.device, attack: str) -> None:
    found, expected = rows(device)
    cases.assert_same_rows(only(found, attack), only(expected, attack))


def test_every_stage_takes_time(device: torch.device) -> None:
    found, _ = rows(device)
    assert all(seconds > 0 for seconds in found.cost.seconds.values())


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.unconditional(tmp_path_factory.mktemp("target"))


@pytest.mark.parametrize(
    ("place", "of_demo"),
    [("cpu", False), *(pytest.param("cuda", of_demo, marks=pytest.mark.gpu) for of_demo in (False, True))],
)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_estimator(place: str, name: str, of_demo: bool, tiny_folder: Path) -> None:
    device = torch.device(place)
    folder = TARGET if of_demo else tiny_folder
    config = cases.make_config(geometry=GEOMETRIES[name], attacks={"sima": {"timesteps": [0]}})
    found, expected = cases.rows_of(folder, device, config), cases.reference(folder, config)
    assert np.isfinite(found.distortion).all() == name.endswith("distortion")
    cases.assert_same_rows(found, expected)


@pytest.mark.parametrize(("place", "make"), PLACES)
def test_every_family(place: str, make: Callable[[Path], Path], tmp_path: Path) -> None:
    """With its condition, and a sample of the posterior, if it has one."""
    folder, device = make(tmp_path), torch.device(place)
    latent = "mode" if make is tiny.vq_ldm else "sample"
    config = cases.make_config(latent=latent, attacks={name: {"timesteps": [0, 100]} for name in ("sima", "loss")})
    cases.assert_same_rows(cases.rows_of(folder, device, config), cases.reference(folder, config))


@pytest.mark.parametrize(
    ("place", "precision"),
    [
        ("cpu", "bfloat16"),
        *(pytest.param("cuda", precision, marks=pytest.mark.gpu) for precision in PRECISIONS),
    ],
)
def test_a_precision_is_near_and_changes_the_denoiser_alone(place: str, precision: Any) -> None:
    # What the demo's denoiser was trained on: at the mode its predictions at t = 0 are small, and rounded more.
    config = cases.make_config(latent="sample", attacks={"sima": {"timesteps": [0, 100]}})
    found = cases.rows_of(TARGET, torch.device(place), config, Execution(precision))
    expected = cases.reference(TARGET, config)
    cases.assert_same_geometry(found, expected, FLOAT32)
    cases.assert_same_spectra(found, expected, Tolerance(FLOAT32.influence, PRECISIONS[precision], 0))
    if precision != "tf32":  # which may meet layers too narrow for it
        assert not np.allclose(found.spectra["sima"].sum(2), expected.spectra["sima"].sum(2), rtol=1e-5)


@pytest.mark.parametrize(
    ("place", "precision"),
    [
        ("cpu", "bfloat16"),
        *(pytest.param("cuda", precision, marks=pytest.mark.gpu) for precision in PRODUCTS),
    ],
)
def test_a_precision_of_the_products_is_near_and_changes_the_geometry_alone(place: str, precision: str) -> None:
    """Influences from the same probes, and masks; the whole of each spectrum is the float32 denoiser's."""
    sima = {"sima": {"timesteps": [0, 100]}}
    config = cases.make_config(attacks=sima, geometry={"probes": 4, "distortion": "off", "precision": precision})
    found, expected = cases.rows_of(TARGET, torch.device(place), config), plain_reference()
    np.testing.assert_allclose(found.influence, expected.influence, rtol=0, atol=PRODUCTS[precision])
    overlap = mask_overlap(*map(torch.from_numpy, (found.influence, expected.influence)), drop=0.4)
    assert overlap.min() > 0.95
    for name, values in expected.spectra.items():
        np.testing.assert_allclose(found.spectra[name].sum(2), values.sum(2), rtol=FLOAT32.spectra)
    if precision != "tf32":  # which may meet layers too narrow for it
        assert not np.allclose(found.influence, expected.influence, rtol=0, atol=FLOAT32.influence)


def test_channels_last(device: torch.device) -> None:
    config, execution = cases.make_config(attacks={"sima": {"timesteps": [0, 100]}}), Execution(channels_last=True)
    cases.assert_same_rows(cases.rows_of(TARGET, device, config, execution), plain_reference())


@pytest.mark.parametrize(
    ("place", "compilation"),
    [
        pytest.param("cpu", "default", marks=pytest.mark.slow),
        *(pytest.param("cuda", compilation, marks=pytest.mark.gpu) for compilation in ("default", "graphs")),
    ],
)
def test_a_compiled_denoiser_twice(place: str, compilation: Any, tmp_path: Path) -> None:
    """Twice, as the first call records a graph and the next ones replay it."""
    folder = tiny.class_unet(tmp_path)
    config = cases.make_config(attacks={name: {"timesteps": [0, 100]} for name in ("sima", "loss")})
    target = load_target(folder, place, execution=Execution(compile=compilation))
    auditor, expected = Auditor(target, config, cases.calibration_of(folder)), cases.reference(folder, config)
    for _ in range(2):
        cases.assert_same_rows(cases.audit(auditor, target), expected)


@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("predict_noise", lambda noise: noise * 1.001),
        ("predict_noise", lambda noise: noise.roll(1, 0)),
        ("decode", lambda images: images * 1.001),
        ("encode", lambda z: z * 1.01),
    ],
)
def test_a_fault_of_a_thousandth_is_found(method: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """What these tests rest on: rows of a target that is a little wrong are not the same."""
    config = cases.make_config(attacks={"sima": {"timesteps": [0, 100]}})
    target = load_target(TARGET, "cpu")
    cases.disturbed(target, method, change)
    found = cases.audit(Auditor(target, config, cases.calibration_of(TARGET)), target)
    with pytest.raises(AssertionError):
        cases.assert_same_rows(found, plain_reference())
