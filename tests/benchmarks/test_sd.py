"""The benchmark of Stable Diffusion's shapes, on tiny ones: its lines belong together."""

import re

import pytest

from ldm_scale.benchmarks import device
from ldm_scale.benchmarks.lines import Line
from ldm_scale.benchmarks.options import StableDiffusionBenchmarkConfig
from ldm_scale.benchmarks.sd import main, run_sd_benchmark
from tests.targets import tiny

SAMPLES, TIMESTEPS, PROBES = 2, 3, 2


@pytest.fixture(scope="module")
def lines() -> dict[str, Line]:
    config = StableDiffusionBenchmarkConfig(
        samples=SAMPLES, timesteps=TIMESTEPS, probes=PROBES, precision="bfloat16", repeats=1
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "UNET", {**tiny.UNET, **tiny.ATTENDING, "cross_attention_dim": 8})
        patch.setattr(device, "AUTOENCODER", tiny.KL)
        patch.setattr(device, "TEXT", {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2})
        return {line.what: line for line in run_sd_benchmark(config)}


def test_every_part_is_timed_in_its_precision(lines: dict[str, Line]) -> None:
    speeds = [f"matrix product of 1,024, {precision}" for precision in ("float32", "bfloat16")]
    parts = ["text, float32", "encoding, float32", "evaluation, bfloat16", "product J^T v, float32"]
    assert list(lines) == [*speeds, *parts, "a sample"]
    for what in parts:
        line, speed = lines[what], lines[f"matrix product of 1,024, {what.split(', ')[1]}"].value
        assert line.value > 0
        operations = re.match(r"([\d.]+) ([kM])FLOP, ", line.note).groups()
        flops = float(operations[0]) * {"k": 1e3, "M": 1e6}[operations[1]]
        assert flops == pytest.approx(line.bound * speed * 1e12, rel=0.01)


def test_a_sample_is_the_sum_of_its_parts(lines: dict[str, Line]) -> None:
    sample = lines["a sample"]
    each = {
        "text, float32": 1,
        "encoding, float32": 1,
        "evaluation, bfloat16": TIMESTEPS,
        "product J^T v, float32": PROBES,
    }
    assert sample.value == pytest.approx(sum(count * lines[what].value for what, count in each.items()))
    assert sample.bound == pytest.approx(sum(count * lines[what].bound for what, count in each.items()))


@pytest.mark.parametrize("flags", [("--precision", "tf32"), ("--compile", "graphs"), ("--channels-last", "perhaps")])
def test_what_a_cpu_cannot_do_is_the_users(flags: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags) == 2
    assert flags[0].strip("-").replace("-", "_") in capsys.readouterr().err
