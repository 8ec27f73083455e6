"""What an audit will take, against what one is seen to take."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm_scale.attacks.base import Evaluations
from ldm_scale.attacks.registry import make_attack
from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.base import build
from ldm_scale.costs.counts import denoiser_evaluations
from ldm_scale.costs.estimate import CostEstimate, CostItem
from ldm_scale.costs.flops import Pass, count_flops
from ldm_scale.device.budget import Budget
from ldm_scale.geometry.pullback import Jacobian, product_bytes
from ldm_scale.targets.denoising import Conditions, predict_noises
from ldm_scale.targets.load import load_target
from tests.auditing import KEYS, PIXELS, make_auditor
from tests.counting import measured

BATCH = 2


def estimate(folder: Path, **values: Any) -> tuple[CostEstimate, AuditConfig]:
    target, arithmetic = measured(folder)
    config = build(AuditConfig, {"out": "o", "shards": "s", "target": "t", **values})
    attacks = [make_attack(name, options) for name, options in config.attacks.items()]
    evaluations = denoiser_evaluations(attacks, target.alphas_cumprod, target.latent_shape)
    return CostEstimate(config, target, arithmetic, evaluations), config


@pytest.mark.parametrize(
    ("estimator", "distortion", "room", "products"),
    [
        # `room` is how many products' memory there is, for vectors of both samples: chunks of 16 and of all.
        ("exact", "exact", 40, 64),
        ("hutchinson", "slq", 1000, 4 + 960),
    ],
)
def test_the_geometry_takes_what_an_audit_is_seen_to_take(
    estimator: str, distortion: str, room: int, products: int, tiny_target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 0

    def counted(product: Callable[..., Any]) -> Callable[..., Any]:
        def take(*arguments: Any) -> Any:
            nonlocal seen
            found: list[Any] = []
            seen += count_flops(lambda: found.append(product(*arguments)))
            return found[0]

        return take

    memory = room * product_bytes(load_target(tiny_target, "cpu").decode, torch.zeros(1, 4, 4, 4))
    geometry = {"influence": estimator, "probes": 4, "distortion": distortion, "memory": memory}
    expected, _ = estimate(tiny_target, geometry=geometry, compute={"batch_size": BATCH})
    auditor, nothing = make_auditor(tiny_target, geometry=geometry), ([()] * BATCH, [None] * BATCH)
    auditor.audit(PIXELS[:BATCH], KEYS[:BATCH], *nothing)  # which traces the products
    for name in ("push", "pull"):
        monkeypatch.setattr(Jacobian, name, counted(getattr(Jacobian, name)))
    auditor.audit(PIXELS[:BATCH], KEYS[:BATCH], *nothing)
    sample = expected.sample()
    assert seen == BATCH * (sample.influence.flops + sample.distortion.flops + sample.passes.flops)
    assert sample.influence.count + sample.distortion.count == products


def test_truncated_distortion_takes_a_vector_at_a_time_and_the_decoder_once_a_round(tiny_target: Path) -> None:
    expected, _ = estimate(tiny_target, geometry={"distortion": "truncated", "probes": 4})
    sample, one = expected.sample(), estimate(tiny_target, geometry={"distortion": "off", "probes": 4})[0].sample()
    # 50 steps there and back: 40, 5 and 5.
    assert (sample.distortion.count, sample.passes.count - one.passes.count) == (100, 6)


def test_a_share_of_the_samples_takes_a_share_of_the_distortion(tiny_target: Path) -> None:
    whole, part = (
        estimate(tiny_target, geometry={"distortion": "exact", "distortion_share": share})[0].sample()
        for share in (1.0, 0.25)
    )
    assert part.distortion.flops == whole.distortion.flops / 4 > 0
    assert part.influence == whole.influence
    assert part.flops == pytest.approx(
        sum(
            item.flops
            for item in (
                *(part.encodings, part.conditions, part.evaluations),
                *(part.influence, part.distortion, part.passes),
            )
        )
    )


def test_evaluations_take_what_the_attacks_are_seen_to_ask(tiny_target: Path) -> None:
    attacks = {"sima": {"timesteps": "0:30:10"}, "pia": {"timesteps": "0:30:10"}}
    expected, config = estimate(tiny_target, attacks=attacks)
    target = load_target(tiny_target, "cpu")

    def attack() -> None:
        z = torch.zeros(1, 4, 4, 4)
        rows, nothing = Budget(64, "row"), Conditions.of(None, [[0]], (), target.alphas_cumprod)
        evaluations = Evaluations(
            z, target.alphas_cumprod, lambda x, steps: predict_noises(target, nothing, rows, x, steps), lambda _: z
        )
        for name, options in config.attacks.items():
            make_attack(name, options).vectors(evaluations)

    with torch.no_grad():
        assert count_flops(attack) == expected.sample().evaluations.flops


@pytest.mark.parametrize(("conditioning", "texts"), [("sample", 1), ("none", 0), (3, 0)])
def test_a_text_a_sample_is_encoded_unless_all_share_one(
    conditioning: str | int, texts: int, tiny_target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = estimate(tiny_target, conditioning=conditioning)
    monkeypatch.setattr(found, "_arithmetic", replace(found._arithmetic, condition=Pass(7, 0)))
    assert found.sample().conditions == CostItem(texts, 7 * texts)


def test_without_influences_the_calibration_set_alone_is_probed(tiny_target: Path) -> None:
    probed, _ = estimate(tiny_target, geometry={"probes": 4, "distortion": "off"})
    expected, _ = estimate(tiny_target, geometry={"influence": "off", "probes": 4}, masks={"ranking": "calibration"})
    sample = expected.sample()
    assert sample.influence.flops + sample.distortion.flops + sample.passes.flops == 0
    assert expected.calibration() == probed.calibration() > 0


def test_calibration_encodes_and_probes(tiny_target: Path) -> None:
    expected, _ = estimate(tiny_target, geometry={"distortion": "off"})
    sample = expected.sample()
    assert expected.calibration() == sample.encodings.flops + sample.influence.flops + sample.passes.flops


def test_pooled_influence_is_learned_from_two_estimates_of_a_sample(tiny_target: Path) -> None:
    once, _ = estimate(tiny_target, geometry={"probes": 4, "distortion": "off"})
    pooled, _ = estimate(tiny_target, geometry={"influence": "pooled", "probes": 4, "distortion": "off"})
    assert pooled.sample() == once.sample()
    assert pooled.calibration() == once.calibration() + once.sample().influence.flops
