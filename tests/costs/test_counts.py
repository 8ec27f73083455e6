"""What a sample costs, against counts of what is really asked for."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm_scale.attacks.base import Attack
from ldm_scale.attacks.loss import Loss
from ldm_scale.attacks.pfami import PFAMI
from ldm_scale.attacks.pia import PIA
from ldm_scale.attacks.secmi import SecMI
from ldm_scale.attacks.sima import SimA
from ldm_scale.config.audit import GeometryConfig
from ldm_scale.costs.counts import decoder_products, denoiser_evaluations
from ldm_scale.geometry.pullback import Jacobian
from tests.auditing import KEYS, PIXELS, make_auditor

THIRTY = tuple(range(0, 300, 10))


@pytest.mark.parametrize(
    ("attacks", "asked"),
    [
        ([SimA(THIRTY)], 30),
        # One at z for all its timesteps of PIA's, which is SimA's at t = 0.
        ([SimA(THIRTY), PIA(THIRTY)], 60),
        # The inversion goes one step beyond the last timestep and begins with SimA's first.
        ([SimA(THIRTY), SecMI(THIRTY)], 60),
        ([Loss((0, 50)), PFAMI((0, 50), crops=(0.9, 0.8))], 2 + 2 * 2),
    ],
)
def test_evaluations_are_shared(attacks: list[Attack], asked: int) -> None:
    assert denoiser_evaluations(attacks, torch.linspace(0.999, 0.01, 1000), (4, 8, 8)) == asked


@pytest.mark.parametrize("estimator", ["exact", "hutchinson"])
@pytest.mark.parametrize(
    ("distortion", "rank"), [("exact", 20), ("truncated", 8), ("truncated", 20), ("slq", 20), ("off", 20)]
)
def test_products_are_those_that_an_audit_takes(
    estimator: str, distortion: str, rank: int, tiny_target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0

    def counted(product: Callable[[Jacobian, Tensor], Tensor]) -> Callable[[Jacobian, Tensor], Tensor]:
        def take(jacobian: Jacobian, vectors: Tensor) -> Tensor:
            nonlocal taken
            taken += len(vectors) * len(jacobian.z)
            return product(jacobian, vectors)

        return take

    for name in ("push", "pull"):
        monkeypatch.setattr(Jacobian, name, counted(getattr(Jacobian, name)))
    geometry = {"influence": estimator, "probes": 4, "distortion": distortion, "rank": rank}
    make_auditor(tiny_target, geometry=geometry).audit(PIXELS[:2], KEYS[:2], [()] * 2, [None] * 2)
    # Of these, truncated distortion takes as many as it turns out to need.
    off = 0.3 if distortion == "truncated" else 0
    assert taken == pytest.approx(2 * decoder_products(GeometryConfig.model_validate(geometry), 64), rel=off)


def test_without_influences_only_distortion_takes_products() -> None:
    assert decoder_products(GeometryConfig(influence="off"), 256) == 0
    assert decoder_products(GeometryConfig(influence="off", distortion="exact", distortion_share=0.5), 256) == 128


def test_a_share_of_the_samples_takes_a_share_of_the_products() -> None:
    """ImageNet: 8 probes, and about 100 products of one image in fifty."""
    geometry = GeometryConfig(probes=8, distortion="truncated", distortion_share=0.02)
    assert decoder_products(geometry, 4096) == pytest.approx(10)
    assert decoder_products(GeometryConfig(probes=8, distortion="slq"), 4096) == 8 + 960
