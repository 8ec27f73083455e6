"""The benchmark compares like with like; how fast it is, is for the benchmark to say and not for a test."""

from pathlib import Path

import pytest
import torch

from ldm_scale.benchmark import loop_squares, run_benchmark
from ldm_scale.cli import main
from ldm_scale.config import GeometryBenchmarkConfig
from ldm_scale.geometry.influence import probe_squares
from ldm_scale.targets import load_target


def test_the_plain_loop_computes_the_same_squares(tiny_target: Path) -> None:
    decode = load_target(str(tiny_target), "cpu").decode
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 4, 4, 4, generator=generator)
    probes = torch.randn(5, 3, 3, 16, 16, generator=generator)
    torch.testing.assert_close(
        loop_squares(decode, z, probes), probe_squares(decode, z, probes, 2**30), rtol=1e-3, atol=1e-5
    )


def test_both_ways_of_each_comparison_agree(tiny_target: Path) -> None:
    config = GeometryBenchmarkConfig(target=str(tiny_target), samples=4, exact_samples=2, probes=3, repeats=1)
    found = list(run_benchmark(config))
    assert [comparison.name.split(",")[0] for comparison in found] == [
        "Hutchinson influence",
        "exact influence and distortion",
    ]
    for comparison in found:
        assert comparison.difference < 1e-3
        assert comparison.speedup == comparison.plain_seconds / comparison.seconds > 0


def test_the_command_prints_a_line_for_each(tiny_target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--target", str(tiny_target), "--samples", "2", "--exact-samples", "1", "--probes", "2", "--repeats", "1"]
    assert main(["benchmark", "geometry", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all("times faster" in line for line in lines)
