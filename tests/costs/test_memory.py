"""The memory that batches will take, against what one is seen to take, and the batch that is chosen by it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ldm_scale.attacks.registry import make_attack
from ldm_scale.auditor import measured_decoder
from ldm_scale.config.audit import AuditConfig, GeometryConfig
from ldm_scale.config.base import build
from ldm_scale.costs.batch import MOST, SPEED, choose_batch, fitting_batch
from ldm_scale.costs.counts import denoiser_evaluations
from ldm_scale.costs.estimate import CostEstimate
from ldm_scale.costs.flops import measure_pass
from ldm_scale.costs.memory import MemoryEstimate
from ldm_scale.geometry.pullback import product_bytes
from ldm_scale.targets.load import load_target
from tests.counting import measured

GB = 10**9


def estimate(folder: Path, device: str = "cpu", **values: Any) -> MemoryEstimate:
    target, arithmetic = measured(folder)
    config = build(AuditConfig, {"out": "o", "shards": "s", "target": "t", **values})
    attacks = [make_attack(name, options) for name, options in config.attacks.items()]
    evaluations = denoiser_evaluations(attacks, target.alphas_cumprod, target.latent_shape)
    return MemoryEstimate(config, target, arithmetic, evaluations, device)


def test_truncated_distortion_takes_a_vector_at_a_time(tiny_target: Path) -> None:
    truncated, slq = (
        estimate(tiny_target, geometry={"distortion": kind, "probes": 4}).of(2) for kind in ("truncated", "slq")
    )
    assert truncated.geometry <= slq.geometry


def test_products_in_bfloat16_take_less_memory(tiny_target: Path) -> None:
    """What the dry run counts on shapes is what autocast's tensors take."""
    target, outline = load_target(tiny_target, "cpu"), load_target(tiny_target, "meta")
    z = torch.zeros(1, 4, 4, 4)
    sizes = {precision: GeometryConfig(precision=precision) for precision in ("float32", "bfloat16")}
    taken, said = (
        {name: product_bytes(measured_decoder(one, config), z.to(device)) for name, config in sizes.items()}
        for one, device in ((target, "cpu"), (outline, "meta"))
    )
    assert said == taken
    assert said["bfloat16"] < said["float32"]


def test_pooled_influence_holds_the_probes_of_two_estimates(tiny_target: Path) -> None:
    once, pooled = (
        estimate(tiny_target, geometry={"influence": kind, "probes": 4, "distortion": "off"}).of(32)
        for kind in ("hutchinson", "pooled")
    )
    assert pooled.geometry > once.geometry


def test_memory_grows_with_the_batch_and_holds_one_product_at_least(tiny_target: Path) -> None:
    product = product_bytes(load_target(tiny_target, "cpu").decode, torch.zeros(1, 4, 4, 4))

    def memory(batch: int, room: int) -> Any:
        geometry = {"memory": room, "probes": 8, "distortion": "off"}
        return estimate(tiny_target, "cuda", geometry=geometry).of(batch)

    one, four = memory(1, 1), memory(4, 10 * product)
    assert (four.encode, four.attacks) == (4 * one.encode, 4 * one.attacks)
    probes = 8 * 3 * 16 * 16 * 4
    assert (one.geometry, four.geometry) == (product + probes, 10 * product + 4 * probes)
    assert four.peak == four.weights + max(four.encode, four.geometry, four.attacks)
    weights = sum(weight.nbytes for weight in load_target(tiny_target, "cpu").weights())
    assert one.weights == weights > 0


def test_a_batch_encodes_in_the_memory_of_its_samples(tiny_target: Path) -> None:
    target = load_target(tiny_target, "meta")
    images = torch.empty(3, 3, 16, 16, device="meta")
    seen = measure_pass(lambda: target.encode(images, None)).memory
    assert estimate(tiny_target).of(3).encode == pytest.approx(seen, rel=0.02)


def test_a_batch_fills_a_device_once_neither_evaluations_nor_products_leave_room(tiny_target: Path) -> None:
    product = product_bytes(load_target(tiny_target, "cpu").decode, torch.zeros(1, 4, 4, 4))
    values = {"attacks": {"sima": {"timesteps": [0, 50]}}, "compute": {"evaluations": 24}}
    # Twelve samples are 24 evaluations, and twenty are 40 products.
    probed = estimate(tiny_target, geometry={"memory": 40 * product, "probes": 2}, **values)
    assert [probed.fills(batch) for batch in (12, 19, 20)] == [False, False, True]
    alone = {"geometry": {"influence": "off"}, "masks": {"ranking": "calibration"}}
    unprobed = estimate(tiny_target, **alone, **values)
    assert [unprobed.fills(batch) for batch in (11, 12)] == [False, True]


def test_a_cpu_is_given_the_fewest_samples_that_take_a_second(tiny_target: Path) -> None:
    slow = {"timesteps": "0:200:1"}
    found = estimate(tiny_target, attacks={"sima": slow, "pia": slow, "loss": slow})
    size = choose_batch(found, 8 * GB, 100_000, 1).size
    assert size * found.flops >= SPEED["cpu"] > size // 2 * found.flops
    # Two auditors share six samples.
    assert choose_batch(found, 8 * GB, 6, 2).size == 2
    fast = estimate(tiny_target, attacks={"sima": {"timesteps": [0]}}, geometry={"distortion": "off"})
    assert (choose_batch(fast, 8 * GB, 100_000, 1).size, choose_batch(fast, 8 * GB, 3, 2).size) == (MOST, 1)


def test_a_sample_has_about_the_operations_that_a_dry_run_counts(tiny_target: Path) -> None:
    target, arithmetic = measured(tiny_target)
    for geometry in ({"distortion": "off"}, {"distortion": "exact"}, {"influence": "exact"}):
        config = build(AuditConfig, {"out": "o", "shards": "s", "target": "t", "geometry": geometry})
        evaluations = 7
        counted = CostEstimate(config, target, arithmetic, evaluations).sample().flops
        assert MemoryEstimate(config, target, arithmetic, evaluations, "cpu").flops == pytest.approx(counted, rel=0.1)


def test_cuda_is_given_what_fills_it_and_takes_a_second(tiny_target: Path) -> None:
    cuda = estimate(tiny_target, "cuda")
    assert choose_batch(cuda, 80 * GB, 100_000, 1).size == MOST == 512
    # Each of eight auditors is to have a batch: of 125 samples, then of no fewer than the usual.
    assert [choose_batch(cuda, 80 * GB, samples, 8).size for samples in (1000, 10)] == [64, 32]


def test_a_batch_is_halved_until_its_memory_fits(tiny_target: Path) -> None:
    found = estimate(tiny_target, geometry={"memory": 1})
    peaks = {batch: found.of(batch).peak for batch in (1, 8, 16)}
    assert peaks[8] < peaks[16]
    held = int(peaks[8] / 0.8) + 1
    chosen = choose_batch(found, held, 100_000, 1)
    assert (chosen.size, fitting_batch(found, 32, peaks[8])) == (8, 8)
    assert "the most that fit" in str(chosen)
    # If not even one fits, it is tried all the same.
    assert (choose_batch(found, 1, 100_000, 1).size, fitting_batch(found, 32, peaks[1] - 1)) == (1, None)
